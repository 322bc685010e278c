"""Checks chapter 12: python docs/path/checks/12.py my_answer.py."""

import sys

from checking import Checks, differ

from penjing.data.world import document
from penjing.data.world.statistics import conditional_entropy
from penjing.evaluation import statistics

checks = Checks()


@checks.exercise("entropy")
def _(entropy):
    texts = ["aab", "abababab", "aaaa", "盆景盆景里的盆景", document(1, language="en"), document(2, language="zh")]
    for text in texts:
        for n in (1, 2, 3):
            expected = conditional_entropy(text, n)
            wrong = differ(f"entropy({text[:30]!r}, {n})", float(entropy(text, n)), expected)
            if wrong:
                return wrong
    return None


@checks.exercise("interval")
def _(interval):
    for right, items in ((0, 1), (1, 1), (5, 10), (0, 50), (50, 50), (1, 50), (37, 40), (611, 800)):
        given = interval(right, items)
        for end, name in enumerate(("lower", "upper")):
            expected = statistics.wilson(right, items)[end]
            wrong = differ(f"the {name} end of interval({right}, {items})", float(given[end]), expected)
            if wrong:
                return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
