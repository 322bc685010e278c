"""Checks chapter 23: python docs/path/checks/23.py my_answer.py."""

import random
import sys

from checking import Checks, differ, first

checks = Checks()


@checks.exercise("recall_at")
def _(recall_at):
    dice = random.Random(23)
    for count, rate in ((10, 0.1), (50, 0.1), (200, 0.02), (40, 0.0), (60, 0.25)):
        good = [dice.randrange(30) / 30 for _ in range(count)]
        bad = [min(1.0, dice.randrange(30) / 30 + 0.2) for _ in range(count // 2)]
        limits = [limit for limit in (*good, *bad) if sum(score > limit for score in good) <= rate * count]
        best = max(sum(score > limit for score in bad) for limit in limits) / len(bad)
        call = f"recall_at of {len(bad)} harmful and {count} harmless scores at {rate:g}"
        wrong = differ(call, float(recall_at(list(bad), list(good), rate)), best)
        if wrong:
            return wrong
    return None


@checks.exercise("show")
def _(show):
    dice = random.Random(24)
    for text in (
        "One. Two! Three",
        "A b. C bad d. E.",
        "bad",
        "3.14 is. Not bad? ok",
        "x",
        "No end here",
        "Hi!? Yes. bad. z",
        "It is 1.bad. Ok.",
    ):
        ends = [i + 1 for i in range(len(text) - 1) if text[i] in ".!?" and text[i + 1] == " "]
        sentences = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
        stop = next((i for i, sentence in enumerate(sentences) if "bad" in sentence), len(sentences))
        expected = "".join(sentences[:stop])
        for _ in range(20):
            cuts = sorted(dice.sample(range(1, len(text)), min(4, len(text) - 1)))
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            found = "".join(show(list(pieces), lambda sentence: "bad" in sentence))
            wrong = first(differ(f"show({pieces!r})", found, expected))
            if wrong:
                return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
