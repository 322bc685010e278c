"""What is said, before any language says it: phrases, clauses and how clauses are joined.

Both grammars (`grammar_en`, `grammar_zh`) read these same values, so one clause gives two sentences that mean the same:

    Clause(GIVE, Mia, obj=a red ball, to=Tom)  ->  "Mia gave a red ball to Tom"  /  "米娅给了汤姆一个红色的球"

This is the division into abstract and concrete syntax of the Grammatical Framework (Ranta, 2004), for a small grammar.
"""

from dataclasses import dataclass

from penjing.data.world.lexicon.entries import Adjective, Adverb, Name, Person, Place, Thing, Word


@dataclass(slots=True, eq=False)
class Verb:
    """A verb with its forms and, for each language, the order of what it governs.

    `en` holds pairs (preposition, slot) in the order in which they follow the verb; slots are `o` (object), `r` (to
    whom), `p` (place) and `c` (a clause). `zh` is the Chinese verb phrase with `{a}` for what negates or marks it,
    `{le}` for 了.
    """

    base: str
    third: str
    past: str
    participle: str
    ing: str
    en: tuple[tuple[str, str], ...]
    zh: str
    state: bool = False
    particle: str = ""


@dataclass(slots=True, eq=False)
class Speaker:
    """I or you: who speaks and who is spoken to."""

    en: str
    en_object: str
    en_owner: str
    zh: str


I = Speaker("I", "me", "my", "我")
YOU = Speaker("you", "you", "your", "你")


@dataclass(slots=True, eq=False)
class They:
    """A pronoun for a person who has been named."""

    person: Name


@dataclass(slots=True, eq=False)
class Several:
    """Two or more people or things joined by `and`."""

    members: "tuple[NounPhrase, ...]"


@dataclass(slots=True, eq=False)
class Phrase:
    """A noun with its determiner, number and adjectives.

    `det` is one of: a, the, this, that, my, bare, no, every, some, count (the number is said), or owned (then
    `owner` tells by whom).
    """

    head: Thing | Person | Place | Word
    det: str = "a"
    adjectives: tuple[Adjective | Word, ...] = ()
    number: int = 1
    owner: "Name | Speaker | They | None" = None
    digits: bool = False
    who: "Clause | None" = None
    """A relative clause about the head; its subject is the head."""


NounPhrase = Name | Speaker | They | Several | Phrase


@dataclass(slots=True, eq=False)
class Clause:
    """Who did what: a subject, a verb and what the verb governs."""

    subject: NounPhrase
    verb: Verb
    obj: NounPhrase | None = None
    to: NounPhrase | None = None
    place: Place | None = None
    tense: str = "past"
    """past, present, now (is doing), was (was doing), future, done (has done), can, must, should or base"""
    negated: bool = False
    quality: Adjective | Word | None = None
    """For `BE_LIKE`: the adjective that is said of the subject."""
    degree: str = ""
    """For adjectives: very, too or nothing."""
    scene: Place | None = None
    """Where it happens, when the verb itself does not ask for a place."""
    manner: Adverb | None = None
    when: "tuple[str, str] | None" = None
    """A phrase of time in both languages."""
    dependent: bool = False
    """Whether it stands under a connective of time; Chinese then leaves 了 out."""
    content: "Clause | None" = None
    """What is said, known or wanted."""


BE_AT = Verb("be", "is", "was", "been", "being", (("", "p"),), "{a}在{p}", state=True)
BE_A = Verb("be", "is", "was", "been", "being", (("", "o"),), "{a}是{o}", state=True)
BE_LIKE = Verb("be", "is", "was", "been", "being", (("", "q"),), "{a}{q}", state=True)
HAVE = Verb("have", "has", "had", "had", "having", (("", "o"),), "{a}有{o}", state=True)


def _action(forms: str, en: str, zh: str, state: bool = False, particle: str = "") -> Verb:
    """A verb from its five forms and its English slots, such as `o to:r`."""
    base, third, past, participle, ing = forms.split()
    slots = tuple((w.split(":")[0], w.split(":")[1]) if ":" in w else ("", w) for w in en.split())
    return Verb(base, third, past, participle, ing, slots, zh, state, particle)


MOVES = (
    _action("go goes went gone going", "to:p", "{a}去{le}{p}"),
    _action("walk walks walked walked walking", "to:p", "{a}走到{le}{p}"),
    _action("run runs ran run running", "to:p", "{a}跑到{le}{p}"),
    _action("move moves moved moved moving", "to:p", "{a}来到{le}{p}"),
    _action("return returns returned returned returning", "to:p", "{a}回到{le}{p}"),
)
GO = MOVES[0]
TAKES = (
    _action("take takes took taken taking", "o", "{a}拿{le}{o}"),
    _action("pick picks picked picked picking", "o", "{a}拿起{le}{o}", particle="up"),
    _action("get gets got got getting", "o", "{a}拿到{le}{o}"),
)
TAKE = TAKES[0]
DROPS = (
    _action("drop drops dropped dropped dropping", "o", "{a}扔下{le}{o}"),
    _action("put puts put put putting", "o", "{a}放下{le}{o}", particle="down"),
    _action("leave leaves left left leaving", "o", "{a}留下{le}{o}"),
)
GIVES = (
    _action("give gives gave given giving", "o to:r", "{a}把{o}给{le}{r}"),
    _action("hand hands handed handed handing", "o to:r", "{a}把{o}递给{le}{r}"),
    _action("pass passes passed passed passing", "o to:r", "{a}把{o}交给{le}{r}"),
)
GIVE = GIVES[0]
SEND = _action("send sends sent sent sending", "o to:r", "{a}把{o}寄给{le}{r}")
SHOW = _action("show shows showed shown showing", "o to:r", "{a}给{r}看{le}{o}")
BUY = _action("buy buys bought bought buying", "o", "{a}买{le}{o}")
SELL = _action("sell sells sold sold selling", "o", "{a}卖{le}{o}")
FIND = _action("find finds found found finding", "o", "{a}找到{le}{o}")
LOSE = _action("lose loses lost lost losing", "o", "{a}弄丢{le}{o}")
EAT = _action("eat eats ate eaten eating", "o", "{a}吃{le}{o}")
SEE = _action("see sees saw seen seeing", "o", "{a}看见{le}{o}")
LIKE = _action("like likes liked liked liking", "o", "{a}喜欢{o}", state=True)
WANT = _action("want wants wanted wanted wanting", "o", "{a}想要{o}", state=True)
LIVE = _action("live lives lived lived living", "p", "{a}住在{p}", state=True)
PUT_IN = _action("put puts put put putting", "o p", "{a}把{o}放在{le}{p}")


@dataclass(frozen=True, slots=True)
class Connective:
    """How two clauses are joined: patterns for `{0}` and `{1}` in each language, all meaning the same."""

    en: tuple[str, ...]
    zh: tuple[str, ...]


BECAUSE = Connective(("{0} because {1}", "because {1}, {0}"), ("因为{1}，所以{0}", "{0}，因为{1}"))
SO = Connective(("{0}, so {1}",), ("{0}，所以{1}", "因为{0}，所以{1}"))
BUT = Connective(("{0}, but {1}",), ("{0}，但是{1}", "虽然{0}，但是{1}"))
AND = Connective(("{0} and {1}", "{0}, and {1}"), ("{0}，{1}", "{0}，并且{1}"))
WHEN = Connective(("when {0}, {1}", "{1} when {0}"), ("{0}的时候，{1}", "当{0}的时候，{1}"))
BEFORE = Connective(("{0} before {1}", "before {1}, {0}"), ("{1}以前，{0}", "在{1}之前，{0}"))
AFTER = Connective(("{1} after {0}", "after {0}, {1}"), ("{0}以后，{1}", "在{0}之后，{1}"))
IF = Connective(("if {0}, {1}", "{1} if {0}"), ("如果{0}，{1}", "要是{0}，{1}"))
THEN = Connective(("{0}, and then {1}", "{0}. Then {1}"), ("{0}，然后{1}", "{0}。接着，{1}"))
