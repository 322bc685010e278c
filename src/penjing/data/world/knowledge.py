"""What is true of things in the world, as sentences and as questions in both languages.

Each kind of fact is a small class of knowledge: what it is said of, the statement, the question and the answers.
Statements are what documents teach; some of the questions are held out, so that they can be answered only by
someone who has learnt the fact and not the question.
"""

from collections.abc import Callable
from dataclasses import dataclass

from penjing.data.world.grammar_en import article
from penjing.data.world.grammar_zh import measure
from penjing.data.world.lexicon import Category, Thing
from penjing.data.world.vocabulary import Vocabulary, vocabulary

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COUNTS = "零一两三四五六七八九十"


def subject(thing: Thing) -> str:
    """The thing in general: a robin, water, scissors."""
    return article(thing.en) if thing.number == "count" else thing.en


def many(thing: Thing) -> str:
    """The thing in general, in the plural where it has one: robins, water."""
    return thing.plural or thing.en


def verb(thing: Thing, one: str, more: str) -> str:
    """The form that agrees with `subject`."""
    return more if thing.number == "plural" else one


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is true: the statements that say it, the questions that ask for it, and the right answers.

    Each is a pair (English, Chinese) of tuples; the first answer is the canonical one.
    """

    kind: str
    statements: tuple[tuple[str, ...], tuple[str, ...]]
    questions: tuple[tuple[str, ...], tuple[str, ...]]
    answers: tuple[tuple[str, ...], tuple[str, ...]]


def kind_fact(thing: Thing) -> Fact:
    """What kind of thing something is."""
    words = vocabulary()
    kind = words.kind_of(thing)
    s, k, be = subject(thing), article(kind.en), verb(thing, "is", "are")
    k = kind.plural if thing.number == "plural" else k
    around = [words.lexicon.category(key) for key in words.lexicon.ancestors(kind.key)]
    en = [f"{s} {be} {k}.", f"{s} {be} {article(kind.en)}."]
    zh = [f"{thing.zh}是一种{kind.zh}。"]
    for c in around:
        en += [f"{s} {be} {article(c.en)}", article(c.en), c.en, c.plural, f"it is {article(c.en)}"]
        zh += [f"{thing.zh}是{c.zh}", c.zh, f"一种{c.zh}", f"{thing.zh}是一种{c.zh}", f"它是一种{c.zh}"]
    return Fact(
        "kind",
        ((f"{s} {be} {k}.", f"{many(thing)} are {kind.plural}." if thing.plural else f"{s} {be} {k}."),
         (f"{thing.zh}是一种{kind.zh}。", f"{thing.zh}属于{kind.zh}。")),
        ((f"what {be} {s}?", f"what kind of thing {be} {s}?"), (f"{thing.zh}是什么？", f"{thing.zh}是一种什么东西？")),
        (tuple(en), tuple(zh)),
    )  # fmt: skip


def colour_fact(thing: Thing) -> Fact | None:
    """What colour something has, where it has only one."""
    if len(thing.colours) != 1:
        return None
    colour = vocabulary().lexicon.word("colour", thing.colours[0])
    s, be = subject(thing), verb(thing, "is", "are")
    return Fact(
        "colour",
        ((f"{s} {be} {colour.en}.", f"{many(thing)} {'are' if thing.plural else 'is'} {colour.en}."),
         (f"{thing.zh}是{colour.zh}的。", f"{thing.zh}的颜色是{colour.zh}。")),
        ((f"what colour {be} {s}?",), (f"{thing.zh}是什么颜色的？", f"{thing.zh}的颜色是什么？")),
        ((f"{s} {be} {colour.en}.", colour.en, f"it is {colour.en}"),
         (f"{thing.zh}是{colour.zh}的。", colour.zh, colour.zh + "的", f"{thing.zh}的颜色是{colour.zh}")),
    )  # fmt: skip


def legs_fact(thing: Thing) -> Fact | None:
    """How many legs an animal has."""
    if thing.legs is None or thing.legs > 10 or thing.number != "count":
        return None
    n, s = thing.legs, subject(thing)
    count = "one leg" if n == 1 else f"{_NUMBERS[n]} legs"
    zh = f"{thing.zh}没有腿" if n == 0 else f"{thing.zh}有{_COUNTS[n]}条腿"
    return Fact(
        "legs",
        ((f"{s} has {count}.", f"{many(thing)} have {count}."), (f"{zh}。",)),
        ((f"how many legs does {s} have?",), (f"{thing.zh}有几条腿？",)),
        (
            (f"{s} has {count}.", count, _NUMBERS[n], "0" if n == 0 else str(n)),
            (f"{zh}。", f"{n}条", f"{n}条腿", str(n)),
        ),
    )


def home_fact(thing: Thing) -> Fact | None:
    """Where something lives, grows or is kept."""
    if not thing.found_in:
        return None
    words = vocabulary()
    place = words.lexicon.place(thing.found_in[0])
    s = subject(thing)
    at = f"{place.prep} {place.article} {place.en}" if place.article else f"{place.prep} {place.en}"
    alive = words.ancestors[thing.category] & {"animal"}
    en_verb = verb(thing, "lives", "live") if alive else verb(thing, "is found", "are found")
    ask = f"where does {s} live?" if alive else f"where {verb(thing, 'is', 'are')} {s} found?"
    inside = place.zh + (place.side or ("里" if place.en == "home" else ""))
    zh = f"{thing.zh}生活在{inside}" if alive else f"{thing.zh}可以在{inside}找到"
    zh_ask = f"{thing.zh}生活在哪里？" if alive else f"{thing.zh}可以在哪里找到？"
    all_places = [words.lexicon.place(p) for p in thing.found_in]
    en_also = [f"{p.prep} {p.article} {p.en}".replace("  ", " ") for p in all_places]
    en_also += [f"{s} {en_verb} {text}" for text in en_also]
    zh_also = [f"在{inside}"] + [f"在{p.zh}{p.side}" for p in all_places] + [p.zh for p in all_places]
    zh_also += [zh.replace(inside, p.zh + p.side) for p in all_places]
    return Fact(
        "home",
        ((f"{s} {en_verb} {at}.",), (f"{zh}。",)),
        ((ask,), (zh_ask,)),
        ((f"{s} {en_verb} {at}.", *en_also), (f"{zh}。", *zh_also)),
    )


def use_fact(thing: Thing) -> Fact | None:
    """What people use something for."""
    if not thing.use_en or vocabulary().ancestors[thing.category] & {"animal"}:
        return None
    s, use = subject(thing), thing.use_en
    return Fact(
        "use",
        ((f"people use {s} to {use}.", f"with {s} people {use}."), (f"{thing.zh}可以用来{thing.use_zh}。",)),
        (
            (f"what do people use {s} for?", f"what {verb(thing, 'is', 'are')} {s} for?"),
            (f"{thing.zh}可以用来做什么？",),
        ),
        ((f"people use {s} to {use}.", f"to {use}", use), (f"{thing.zh}可以用来{thing.use_zh}。", thing.use_zh)),
    )


def material_fact(thing: Thing) -> Fact | None:
    """What something is made of."""
    if not thing.made_of:
        return None
    of = vocabulary().lexicon.word("material", thing.made_of)
    s, be = subject(thing), verb(thing, "is", "are")
    return Fact(
        "material",
        ((f"{s} {be} made of {of.en}.",), (f"{thing.zh}是用{of.zh}做的。",)),
        ((f"what {be} {s} made of?",), (f"{thing.zh}是用什么做的？",)),
        ((f"{s} {be} made of {of.en}.", of.en, f"it is made of {of.en}"), (f"{thing.zh}是用{of.zh}做的。", of.zh)),
    )


def sound_fact(thing: Thing) -> Fact | None:
    """What sound an animal makes."""
    if not thing.sound:
        return None
    sound = vocabulary().lexicon.word("sound", thing.sound)
    s = subject(thing)
    return Fact(
        "sound",
        ((f"{s} says {sound.en}.", f'the sound of {s} is "{sound.en}".'), (f"{thing.zh}的叫声是“{sound.zh}”。",)),
        ((f"what does {s} say?", f"what sound does {s} make?"), (f"{thing.zh}怎么叫？", f"{thing.zh}的叫声是什么？")),
        ((f"{s} says {sound.en}.", sound.en), (f"{thing.zh}的叫声是“{sound.zh}”。", sound.zh)),
    )


FACTS: tuple[Callable[[Thing], Fact | None], ...] = (
    kind_fact, colour_fact, legs_fact, home_fact, use_fact, material_fact, sound_fact,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that can be asked with yes or no of a thing: the claim and its denial in both languages."""

    kind: str
    other: str
    """What the thing is put together with; the held-out combination is (kind, thing, other)."""
    true: bool
    question: tuple[str, str]
    yes: tuple[str, str]
    no: tuple[str, str]


def kind_claim(thing: Thing, category: Category, true: bool) -> Claim:
    """Whether the thing is of that category."""
    s, be = subject(thing), verb(thing, "is", "are")
    k = category.plural if thing.number == "plural" else article(category.en)
    return Claim(
        "is", category.key, true,
        (f"{be} {s} {k}?", f"{thing.zh}是{category.zh}吗？"),
        (f"{s} {be} {k}", f"{thing.zh}是{category.zh}"),
        (f"{s} {be} not {k}", f"{thing.zh}不是{category.zh}"),
    )  # fmt: skip


def can_claim(thing: Thing, ability: str) -> Claim | None:
    """Whether an animal or vehicle can fly or swim."""
    true = thing.can_fly if ability == "fly" else thing.can_swim
    if true is None:
        return None
    s, zh = subject(thing), {"fly": "飞", "swim": "游泳"}[ability]
    return Claim(
        "can", ability, true,
        (f"can {s} {ability}?", f"{thing.zh}会{zh}吗？"),
        (f"{s} can {ability}", f"{thing.zh}会{zh}"),
        (f"{s} cannot {ability}", f"{thing.zh}不会{zh}"),
    )  # fmt: skip


def eat_claim(thing: Thing) -> Claim:
    """Whether people eat it."""
    s = subject(thing)
    return Claim(
        "eat", "eat", thing.edible,
        (f"can people eat {s}?" if thing.category != "drink" else f"can people drink {s}?",
         f"人可以吃{thing.zh}吗？" if thing.category != "drink" else f"人可以喝{thing.zh}吗？"),
        (f"people can {'drink' if thing.category == 'drink' else 'eat'} {s}",
         f"人可以{'喝' if thing.category == 'drink' else '吃'}{thing.zh}"),
        (f"people cannot eat {s}", f"人不可以吃{thing.zh}"),
    )  # fmt: skip


def facts_of(words: Vocabulary, thing: Thing) -> tuple[Fact, ...]:
    """All facts about a thing, built once."""
    return words.remembered(
        ("facts", thing.en), lambda: tuple(fact for make in FACTS if (fact := make(thing)) is not None)
    )


__all__ = ["Claim", "Fact", "can_claim", "eat_claim", "facts_of", "kind_claim", "many", "measure", "subject"]
