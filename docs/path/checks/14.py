"""Checks chapter 14: python docs/path/checks/14.py my_answer.py."""

import random
import sys

from checking import Checks, differ

from penjing.inference.engine.cache import PageCache
from penjing.inference.engine.request import Request
from penjing.inference.engine.scheduler import Scheduler
from penjing.inference.sampling import Sampling

checks = Checks()


def passes_of(lengths: list[int], seats: int) -> int:
    """How many passes our scheduler makes of requests that all come at once; a token of each stands for its text."""
    cache = PageCache({None: 1000}, 16, 512, reuse=False)
    scheduler = Scheduler(cache, seats, 512)
    for row, length in enumerate(lengths):
        scheduler.add(Request(row, (1,), Sampling(), frozenset(), length, chooser=None))
    passes = 0
    while work := scheduler.schedule():
        passes += 1
        for part in work:
            part.request.computed += part.count
            part.request.tokens.append(1)
            if len(part.request.generated) == part.request.room:
                scheduler.remove(part.request)
    return passes


@checks.exercise("passes")
def _(passes):
    dice = random.Random(1)
    cases = [([5], 1), ([5, 3], 1), ([5, 3], 2), ([4, 4, 4], 2), ([1, 9, 1, 1, 1], 2), ([9, 1, 1, 1, 9], 3)]
    cases += [([dice.randrange(1, 30) for _ in range(count)], seats) for count, seats in ((10, 3), (25, 4), (40, 8))]
    for lengths, seats in cases:
        wrong = differ(f"passes({lengths}, {seats})", passes(list(lengths), seats), passes_of(lengths, seats))
        if wrong:
            return wrong
    return None


@checks.exercise("found")
def _(found):
    dice = random.Random(1)
    for page in (1, 2, 4):
        for _ in range(60):
            before = [[dice.randrange(2) for _ in range(dice.randrange(1, 14))] for _ in range(dice.randrange(4))]
            prompt = [dice.randrange(2) for _ in range(dice.randrange(1, 14))]
            if before and dice.random() < 0.5:
                prompt = before[0][: dice.randrange(1, len(before[0]) + 1)] + prompt[: dice.randrange(3)]
            cache = PageCache({None: 1000}, page, 512)
            for text in before:
                pages = cache.begin(text)
                cache.extend(pages, len(text))
                cache.seal(pages, text, len(text))
                cache.end(pages)
            expected = len(cache.begin(prompt).pages) * page
            given = found([list(text) for text in before], list(prompt), page)
            wrong = differ(f"found({before}, {prompt}, {page})", given, expected)
            if wrong:
                return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
