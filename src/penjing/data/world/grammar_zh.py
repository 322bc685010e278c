"""Chinese: phrases and clauses of `syntax` as characters in order.

Measure words, 的, aspect (了, 正在, 没有, 不), places before the verb, and questions that keep the order of the
statement (谁, 什么, 哪里, 吗) are done here. The functions are those of `grammar_en`, under the same names.
"""

from functools import lru_cache

from penjing.data.world.lexicon.entries import Adjective, Name, Person, Place, Thing, Word
from penjing.data.world.lexicon.numbers import count_words, number_words
from penjing.data.world.syntax import BE_AT, BE_LIKE, HAVE, Clause, NounPhrase, Phrase, Speaker, They

LANGUAGE = "zh"
STOP, QUESTION, COMMA, SPACE = "。", "？", "，", ""

_MARKS = {
    "past": ("", "没有"),
    "present": ("", "不"),
    "now": ("正在", "没在"),
    "was": ("正在", "没在"),
    "future": ("会", "不会"),
    "done": ("已经", "还没有"),
    "can": ("能", "不能"),
    "must": ("必须", "不必"),
    "should": ("应该", "不应该"),
    "base": ("", "不"),
}
_BARE = frozenset("大小新旧老好坏长短高矮")
_QUESTION_WORD = {"s": "谁", "o": "什么", "r": "谁", "p": "哪里", "q": "什么样", "when": "什么时候"}


def number(n: int, digits: bool = False) -> str:
    """A number in characters or digits."""
    return str(n) if digits else number_words(n, "zh")


def measure(head: Thing | Person | Place | Word) -> str:
    """The noun's measure word."""
    return head.measure or "个"


def _with(adjectives: tuple[Adjective | Word, ...], word: str) -> str:
    """Adjectives with 的 first, the few that need none directly before the noun: 红色的大球."""
    if not adjectives:
        return word
    long = "".join([a.zh + "的" for a in adjectives if a.zh not in _BARE])
    return long + "".join([a.zh for a in adjectives if a.zh in _BARE]) + word


def noun_phrase(p: NounPhrase, case: str = "subject") -> str:
    """A noun phrase; `case` makes no difference in Chinese."""
    if isinstance(p, Name | Speaker):
        return p.zh
    if isinstance(p, Phrase):
        return _phrase(p)
    if isinstance(p, They):
        return "她" if p.person.gender == "f" else "他"
    return enumeration([noun_phrase(m) for m in p.members])


def _phrase(p: Phrase) -> str:
    head, det = p.head, p.det
    word = _with(p.adjectives, head.zh)
    if p.who is not None:
        word = predicate(p.who) + "的" + word
    if det == "a":
        return "一" + measure(head) + word
    if det == "count":
        return (str(p.number) if p.digits else count_words(p.number, "zh")) + measure(head) + word
    if det == "owned" and p.owner is not None:
        return owner(p.owner) + word
    if det in ("this", "these"):
        return ("这" + measure(head) if det == "this" else "这些") + word
    if det in ("that", "those") or (det == "the" and p.who is not None):
        return ("那些" if det == "those" else "那" + measure(head)) + word
    if det == "every":
        return "每" + measure(head) + word
    if det == "some":
        return "一些" + word
    if det == "my":
        return "我的" + word
    return word


def owner(p: "Name | Speaker | They") -> str:
    """The possessive: 米娅的, 我的, 她的."""
    return noun_phrase(p) + "的"


def enumeration(parts: list[str], last: str = "和") -> str:
    """甲, 甲和乙, 甲、乙和丙."""
    if len(parts) == 1:
        return parts[0]
    return "、".join(parts[:-1]) + last + parts[-1]


@lru_cache(maxsize=4096)
def where(place: Place) -> str:
    """在厨房里, 在家."""
    return f"在{place.zh}{place.side}"


def the(place: Place) -> str:
    """厨房."""
    return place.zh


def _marks(c: Clause) -> tuple[str, str]:
    """What stands before the verb (negation, aspect, auxiliary) and whether 了 follows it."""
    verb, tense = c.verb, c.tense
    if verb is HAVE and tense in ("past", "present"):
        return ("没" if c.negated else ""), ""
    if verb.state and tense in ("past", "present"):
        return ("不" if c.negated else ""), ""
    le = "了" if not c.negated and not c.dependent and tense in ("past", "done") else ""
    return _MARKS[tense][c.negated], le


def predicate(c: Clause, gap: str = "") -> str:
    """The clause without its subject; what is asked for is its question word."""
    a, le = _marks(c)
    if c.manner is not None:
        a = c.manner.zh + a
    if c.scene is not None:
        a = ("在哪里" if gap == "p" else where(c.scene)) + a if c.tense != "now" else a + where(c.scene)
    if c.when is not None:
        a = (_QUESTION_WORD["when"] if gap == "when" else c.when[1]) + a
    verb = c.verb
    if verb is BE_LIKE:
        return a + (_QUESTION_WORD["q"] + "的" if gap == "q" else _quality(c))
    if verb is BE_AT:
        place = c.place
        return a + ("在" + _QUESTION_WORD["p"] if gap == "p" or place is None else where(place))
    text = verb.zh.format(
        a=a,
        le=le,
        o=_QUESTION_WORD["s" if isinstance(c.obj, Name) else "o"]
        if gap == "o"
        else noun_phrase(c.obj)
        if c.obj is not None
        else "",
        r=_QUESTION_WORD["r"] if gap == "r" else noun_phrase(c.to) if c.to is not None else "",
        p=_QUESTION_WORD["p"] if gap == "p" else _target(c) if c.place is not None else "",
    )
    return text + clause(c.content) if c.content is not None else text


def _target(c: Clause) -> str:
    """The place that a verb leads to, with its side word after 在 (住在村庄里) and where one is on it (走到桥上)."""
    place = c.place
    assert place is not None
    return place.zh + place.side if place.side == "上" or "在" in c.verb.zh else place.zh


def _quality(c: Clause) -> str:
    quality = c.quality
    assert quality is not None
    if isinstance(quality, Word) or not quality.degrees or len(quality.zh) > 3:
        return "是" + quality.zh + "的"
    if c.negated:
        return quality.zh
    return {"": "很", "very": "非常", "too": "太"}[c.degree] + quality.zh


def clause(c: Clause) -> str:
    """The clause without its stop."""
    return noun_phrase(c.subject) + predicate(c)


def question(c: Clause, slot: str) -> str:
    """The question for one part of the clause (`y`: yes or no), without question mark."""
    if slot == "y":
        return clause(c) + "吗"
    if slot == "s":
        return "谁" + predicate(c)
    return noun_phrase(c.subject) + predicate(c, slot)


def embedded(c: Clause, slot: str) -> str:
    """The question as it stands inside a sentence: 汤姆在哪里, 汤姆是不是在花园里."""
    if slot == "y":
        return noun_phrase(c.subject) + "是不是" + predicate(c)
    return question(c, slot)


def capital(text: str) -> str:
    """Chinese has no capitals."""
    return text


def sentence(text: str, stop: str = "。") -> str:
    """A clause as a sentence."""
    return text + stop


def speech(speaker: str, text: str, verb: str) -> str:
    """A sentence in direct speech."""
    return f"{speaker}{verb}：“{text}”"
