"""How things are told and asked: stories with connectives, and the many forms of a question and of its answer."""

from collections.abc import Iterable

from penjing.data.world.lexicon.entries import Name
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import Clause, NounPhrase, They

_THEN = {"en": ("Then ", "After that, ", "Next, ", "Later, "), "zh": ("然后", "接着", "后来", "之后")}
_POLITE = {
    "en": ("Tell me {0}.", "Do you know {0}?", "Can you tell me {0}?", "Please say {0}.", "I want to know {0}."),
    "zh": ("请告诉我{0}。", "你知道{0}吗？", "请问，{0}？", "请说说{0}。", "我想知道{0}。"),
}


def ask(scene: Scene, clause: Clause, slot: str, direct: float = 0.75) -> str:
    """A question for one part of the clause, direct or inside a polite request."""
    g = scene.g
    if scene.dice.chance(direct):
        return g.sentence(g.question(clause, slot), g.QUESTION)
    return wrap(scene, g.embedded(clause, slot))


def wrap(scene: Scene, embedded: str) -> str:
    """An embedded question (`where Tom is`) inside a request."""
    pattern = scene.dice.pick(_POLITE[scene.language])
    if scene.zh and embedded.endswith("吗"):
        pattern = "请问，{0}？"
    return pattern.format(embedded)


def answers(scene: Scene, clause: Clause, slot: str) -> tuple[str, ...]:
    """Every form of the answer that is exactly right, the whole sentence first.

    For `y` the answer is yes or no by the clause's own polarity.
    """
    g = scene.g
    full = g.sentence(g.clause(clause))
    if slot == "y":
        return yes_no(scene, not clause.negated, g.clause(clause))
    forms = [full]
    if slot == "p" and clause.place is not None:
        place = clause.place
        forms += (
            [place.zh + place.side, place.zh, g.where(place)] if scene.zh else [g.where(place), g.the(place), place.en]
        )
        forms += [w for w in place.also if scene.zh]
    else:
        value = {"s": clause.subject, "o": clause.obj, "r": clause.to}[slot]
        if value is not None:
            forms += bare(scene, value)
    subject = clause.subject
    if type(subject) is Name and slot != "s":
        forms.append(g.clause(_with_subject(clause, They(subject))))
    elif type(subject) is Name and not scene.zh and clause.tense == "past":
        forms.append(f"{subject.en} did")
    return tuple(forms)


def bare(scene: Scene, value: NounPhrase) -> list[str]:
    """A noun phrase alone, and in English also without its article."""
    text = scene.g.noun_phrase(value, "object")
    forms = [text]
    if not scene.zh and text.partition(" ")[0] in ("a", "an", "the"):
        rest = text.partition(" ")[2]
        forms += [rest, "the " + rest]
    return forms


def yes_no(scene: Scene, yes: bool, clause: str) -> tuple[str, ...]:
    """`Yes, ...` or `No, ...` with the clause that is true; and the bare word."""
    if scene.zh:
        word, others = ("是的", ("对", "是")) if yes else ("不", ("不是", "不对", "没有"))
        return (f"{word}，{clause}。", word, *others)
    word = "Yes" if yes else "No"
    return (f"{word}, {clause}.", word)


def jot(scene: Scene, pairs: Iterable[tuple[str, str]]) -> str:
    """Notes, each a key and what belongs to it: `pen: Tom, cup: Ann.` They are looked up by the key later."""
    colon, comma = ("：", "，") if scene.zh else (": ", ", ")
    return comma.join(key + colon + value for key, value in pairs) + scene.g.STOP


def verdict(scene: Scene, subject: str, true: list[str], asked: str) -> str:
    """What is true of the subject, what is asked, and whether that is among it: `Tom: kitchen; garden: no.`"""
    word = scene.t("yes", "是") if asked in true else scene.t("no", "不是")
    colon, comma, then = ("：", "，", "；") if scene.zh else (": ", ", ", "; ")
    return f"{subject}{colon}{comma.join(true)}{then}{asked}{colon}{word}{scene.g.STOP}"


def _with_subject(clause: Clause, subject: NounPhrase) -> Clause:
    return Clause(
        subject, clause.verb, clause.obj, clause.to, clause.place, clause.tense, clause.negated, clause.quality,
        clause.degree, clause.scene, clause.manner, clause.when, clause.dependent, clause.content,
    )  # fmt: skip


def narrate(scene: Scene, clauses: list[Clause], events: bool = True) -> str:
    """The clauses in order as a text; events also with words of sequence between them, states without.

    Now and then two clauses with one subject share a sentence, or the subject is a pronoun.
    """
    dice, g = scene.dice, scene.g
    sentences: list[str] = []
    i = 0
    while i < len(clauses):
        clause = clauses[i]
        previous = clauses[i - 1].subject if i else None
        if type(clause.subject) is Name and previous is clause.subject and dice.chance(0.5):
            clause = _with_subject(clause, They(clause.subject))
        text = g.clause(clause)
        following = clauses[i + 1] if i + 1 < len(clauses) else None
        if following is not None and following.subject is clauses[i].subject and dice.chance(0.35):
            text += (("，" if dice.chance(0.5) else "，然后") if scene.zh else " and ") + g.predicate(following)
            i += 1
        opening = dice.pick(_THEN[scene.language]) if events and i > 1 and dice.chance(0.25) else ""
        sentences.append(opening + text + g.STOP if opening else g.sentence(text))
        i += 1
    return g.SPACE.join(sentences)
