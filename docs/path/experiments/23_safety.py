"""Filters: what a check digit is worth, what a flag is worth, and what is seen of a reply before it is stopped."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from common import arguments, table

from penjing.data.cleaning.personal import is_identity_number, passes_luhn
from penjing.serving.safety.personal import find_personal
from penjing.serving.safety.policy import Decision
from penjing.serving.safety.stream import StreamFilter
from penjing.training.plots import Curve, Plot

RATES = ((0.76, 0.10), (0.62, 0.02), (0.50, 0.005))
"""Recall and false positive rate that a classifier may have; `--data`, a moderator's moderation.json, gives its own."""
WORDS = [
    "the",
    "garden",
    "lies",
    "behind",
    "a",
    "low",
    "wall",
    "and",
    "every",
    "tree",
    "in",
    "it",
    "was",
    "cut",
    "small",
]


def taken_for(count: int, dice: random.Random) -> list[list[str]]:
    """How many numbers that are nothing pass for cards and for identity numbers, test by test."""
    cards = ["".join(dice.choices("0123456789", k=16)) for _ in range(count)]
    numbers = ["1101" + "".join(dice.choices("0123456789", k=14)) for _ in range(count)]

    def share(texts: list[str], holds: Callable[[str], object]) -> str:
        return f"{sum(bool(holds(text)) for text in texts) / count:.2%}"

    return [
        ["16 digits", "form", "100.00%"],
        ["", "and check digit", share(cards, passes_luhn)],
        ["", "and how cards begin", share(cards, lambda text: find_personal(text, ["CARD"]))],
        ["18 digits", "form", "100.00%"],
        ["", "and a birthday, and check digit", share(numbers, is_identity_number)],
    ]


def reply(dice: random.Random, sentences: int) -> tuple[str, int]:
    """A reply with "poison" in one of its sentences, and where that sentence begins."""
    bad, parts, start = dice.randrange(sentences), [], 0
    for number in range(sentences):
        words = dice.choices(WORDS, k=dice.randint(6, 14))
        if number == bad:
            start = sum(map(len, parts))
            words[dice.randrange(3, len(words))] = "poison"
        parts.append(" ".join(words).capitalize() + ". ")
    return "".join(parts), start


def seen(text: str, pieces: list[str], way: str) -> tuple[int, float]:
    """How many characters were shown, and how many were held back on average, piece by piece."""

    def bad(said: str) -> bool:
        return "poison" in said

    shown, pushed, held = "", "", []
    stream = StreamFilter(lambda said, before: Decision("block" if bad(said) else "allow", said))
    for piece in pieces:
        pushed += piece
        if way == "by sentence":
            shown += "".join(one for one in stream.push(piece) if isinstance(one, str))
            stopped = stream.blocked is not None
        else:
            looked_at = piece if way == "piece by piece" else pushed
            stopped = bad(looked_at)
            shown += "" if stopped else piece
        if stopped:
            break
        held.append(len(pushed) - len(shown))
    return len(shown), sum(held) / max(len(held), 1)


def main() -> None:
    """Prints the tables and draws what a flag is worth."""
    args = arguments("23-safety", __doc__, numbers=20_000, replies=200)
    dice = random.Random(1)
    table(["numbers that are nothing", "test", "pass"], taken_for(args.numbers, dice))

    print()
    rows = []
    drawn = [reply(dice, 6) for _ in range(args.replies)]
    for way in ("piece by piece", "all so far", "by sentence"):
        after, leaked, held = 0, 0, 0.0
        for text, start in drawn:
            pieces, rest = [], text
            while rest:
                size = dice.randint(1, 5)
                pieces.append(rest[:size])
                rest = rest[size:]
            shown, back = seen(text, pieces, way)
            after += max(shown - start, 0)
            leaked += "pois" in text[:shown]
            held += back
        count = len(drawn)
        rows.append([way, f"{after / count:.1f}", f"{leaked / count:.0%}", f"{held / count:.1f}"])
    table(["checked", "characters of the bad sentence and after it", "half the word seen", "held back"], rows)

    known = measured(args.data) if args.data else RATES
    print()
    parts = [10**-exponent for exponent in (0.301, 1, 2, 3)]
    rows = [
        [f"{recall:.0%} at {alarms:.1%}", *(f"{worth(recall, alarms, part):.1%}" for part in parts)]
        for recall, alarms in known
    ]
    table(["recall at false positives", *(f"1 in {round(1 / part):,}" for part in parts)], rows)
    x = [10 ** (-3 + 3 * step / 60) for step in range(60)]
    curves = [
        Curve(f"recall {recall:.0%}, false positives {alarms:.1%}", x, [worth(recall, alarms, part) for part in x])
        for recall, alarms in known
    ]
    Plot(
        "What a flag is worth",
        "share of messages that are harmful",
        "share of flags that are right",
        curves,
        log_x=True,
    ).save(args.image)


def worth(recall: float, alarms: float, part: float) -> float:
    """Of what is flagged, the share that is harmful, where such a part of all is."""
    return recall * part / (recall * part + alarms * (1 - part))


def measured(record: Path) -> list[tuple[float, float]]:
    """Recall and false positive rate of a moderator on English texts that it never saw, from its record."""
    found = json.loads(record.read_text(encoding="utf-8"))["facts"]["measured"]["model"]["en"]["by_threshold"]
    return [
        (found[rate]["recall"]["share"], found[rate]["false_positives"]["share"]) for rate in ("0.1", "0.02", "0.005")
    ]


if __name__ == "__main__":
    main()
