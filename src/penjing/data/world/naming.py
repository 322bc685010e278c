"""People's names: those of the lexicon, and Chinese full names composed of its surnames and given names.

Composed names are so many that each is rare: a model cannot know them by heart and has to copy them from what it
reads, which is what the held-out names ask of it. A composed name is held out by its surname and the first
character of its given name, so that no held-out name is the beginning of a name in training.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from penjing.data.world.lexicon import Lexicon, Name
from penjing.data.world.split import SPLITS, held_out


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one split."""

    listed: tuple[Name, ...]
    """Those of the lexicon."""
    composed: tuple[Name, ...]

    def all(self) -> tuple[Name, ...]:
        """Both kinds."""
        return self.listed + self.composed


def names_by_split(lexicon: Lexicon, taken_en: set[str], taken_zh: set[str]) -> dict[str, Names]:
    """Training's names and the held-out ones; none is a word that is `taken` (Lily would meet the flower)."""
    listed = {
        split: tuple(
            n
            for n in lexicon.named(split)
            if n.en.lower() not in taken_en and not any(n.zh in word for word in taken_zh)
        )
        for split in SPLITS
    }
    whole = _compose(listed["train"])
    characters = set("".join([*taken_zh, *(n.zh for n in listed["train"])]))  # a character never seen cannot be written
    listed["heldout"] = tuple(n for n in listed["heldout"] if characters.issuperset(n.zh))
    train = [n for n in whole if not held_out("name", *n.zh[:2])]
    train = [n for n in train if not any(out.zh in n.zh or out.en == n.en for out in listed["heldout"])]
    known_en = {n.en for n in (*listed["train"], *train)}
    known_zh = [n.zh for n in listed["train"]]
    kept_out = [
        n
        for n in whole
        if held_out("name", *n.zh[:2])
        and n.en not in known_en
        and not any(n.zh in other or other in n.zh for other in known_zh)
    ]
    return {"train": Names(listed["train"], tuple(train)), "heldout": Names(listed["heldout"], tuple(kept_out))}


def _compose(names: Iterable[Name]) -> list[Name]:
    """Every surname with every given name that are in these names."""
    surnames: dict[str, str] = {}
    given: dict[str, tuple[str, str]] = {}
    for name in names:
        first, _, rest = name.en.partition(" ")
        if name.origin == "zh" and rest and " " not in rest:
            surnames[name.zh[0]] = first
            given[name.zh[1:]] = (rest, name.gender)
    return [
        Name(f"{surname_en} {given_en}", surname + zh, gender, "zh", "")
        for surname, surname_en in surnames.items()
        for zh, (given_en, gender) in given.items()
        if given_en != surname_en
    ]
