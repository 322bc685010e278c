"""The generated world beside real books, and what memory alone would score on its items."""

import argparse
from collections import Counter
from pathlib import Path

from common import table

from penjing.data.corpus import documents as documents_of
from penjing.data.world import check, dialogue, document, skills
from penjing.data.world.statistics import Statistics, statistics
from penjing.training.plots import Curve, Plot

LONGEST = 6


def world(language: str, characters: int) -> str:
    """So many characters of the world's documents."""
    parts, length, seed = [], 0, 0
    while length < characters:
        parts.append(document(seed, language=language))
        length, seed = length + len(parts[-1]) + 2, seed + 1
    return "\n\n".join(parts)[:characters]


def book(path: Path, characters: int) -> str:
    """So many characters of a text file; line ends count as one character, indentation not at all."""
    whole = "\n".join(line.strip() for text in documents_of(path) for line in text.text.splitlines())
    if len(whole) < characters:
        raise SystemExit(f"{path} has only {len(whole):,} characters: give --characters {len(whole)} or fewer")
    return whole[:characters]


def memory(training: int, items: int) -> list[list[object]]:
    """By skill: chance, and the score of a memory of training dialogues on items of either split.

    The memory answers a question that it knows as it was answered, any other with the skill's most frequent answer.
    """
    rows = []
    for skill in skills():
        known: dict[tuple[str, ...], str] = {}
        answers: Counter[str] = Counter()
        for seed in range(training):
            item = dialogue(seed, language="en", skill=skill.name)
            known[tuple(m["content"] for m in item.prompt if m["role"] != "system")] = item.answer
            answers[item.answer] += 1
        usual = answers.most_common(1)[0][0]
        row: list[object] = [skill.name, "easier" if skill.easy else "harder", f"{skill.chance:.0%}"]
        for split, first in (("train", 10**6), ("heldout", 0)):
            right = 0
            for seed in range(first, first + items):
                item = dialogue(seed, split=split, language="en", skill=skill.name)
                asked = tuple(m["content"] for m in item.prompt if m["role"] != "system")
                right += check(item, known.get(asked, usual))
            row.append(f"{right / items:.0%}")
        rows.append(row)
    return rows


def main() -> None:
    """Prints figures of each text and the scores of memory; draws the entropies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("books", type=Path, nargs="*", help="text files to compare with, such as a play and a novel")
    parser.add_argument("--characters", type=int, default=800_000, help="of each text; equal lengths compare")
    parser.add_argument("--training", type=int, default=2000, help="dialogues of each skill that the memory holds")
    parser.add_argument("--items", type=int, default=200, help="items of each skill and split that it is asked")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images", help="where the plot goes")
    args = parser.parse_args()

    texts = {"world, English": world("en", args.characters), "world, Chinese": world("zh", args.characters)}
    texts |= {path.stem: book(path, args.characters) for path in args.books}
    found: dict[str, Statistics] = {name: statistics(text, LONGEST) for name, text in texts.items()}
    print(f"{args.characters:,} characters of each text")
    head = ["", "tokens", "types", "bytes", *(f"H{n}" for n in range(1, LONGEST + 1)), "xz"]
    table(
        head,
        [
            [
                name,
                f"{figures.words:,}",
                f"{figures.types:,}",
                f"{figures.bytes:,}",
                *(f"{bits:.2f}" for bits in figures.entropies),
                figures.xz_ratio,
            ]
            for name, figures in found.items()
        ],
    )

    print(f"\nExactly right answers of a memory of {args.training:,} training dialogues a skill, in English")
    table(["skill", "half", "chance", "training", "held out"], memory(args.training, args.items))

    orders = range(1, LONGEST + 1)
    curves = [Curve(name, orders, figures.entropies, points=True) for name, figures in found.items()]
    title, x_label = "Entropy of a character", "n: its own place and the n - 1 characters before it are counted"
    Plot(title, x_label, "bits per character", curves).save(args.out / "12-the-world-and-skills.png")


if __name__ == "__main__":
    main()
