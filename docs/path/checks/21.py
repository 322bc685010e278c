"""Checks chapter 21: python docs/path/checks/21.py my_answer.py."""

import random
import sys

from checking import Checks, differ, first

checks = Checks()
PRIME = 2**61 - 1


@checks.exercise("estimate")
def _(estimate):
    dice = random.Random(21)
    factors = [(dice.randrange(1, PRIME), dice.randrange(PRIME)) for _ in range(400)]
    hashes = [lambda x, a=a, b=b: (a * x + b) % PRIME for a, b in factors]
    for size, common in ((50, 50), (50, 40), (80, 20), (30, 0), (200, 150)):
        shared = [dice.randrange(PRIME) for _ in range(common)]
        one = {*shared, *(dice.randrange(PRIME) for _ in range(size - common))}
        two = {*shared, *(dice.randrange(PRIME) for _ in range(2 * (size - common)))}
        agree = [min(map(h, one)) == min(map(h, two)) for h in hashes]
        call = f"estimate of sets of {len(one)} and {len(two)} with {common} in common"
        wrong = first(
            differ(call, float(estimate(set(one), set(two), hashes)), sum(agree) / len(agree)),
            differ(call + ", one hash", float(estimate(set(one), set(two), hashes[:1])), float(agree[0])),
        )
        if wrong:
            return wrong
    return None


@checks.exercise("valid")
def _(valid):
    dice = random.Random(22)
    for digits in (13, 15, 16, 19):
        for _ in range(10):
            number = "".join(str(dice.randrange(10)) for _ in range(digits - 1))
            doubled = [int(d) * (2 - place % 2) for place, d in enumerate(reversed(number))]
            check = -sum(d - 9 if d > 9 else d for d in doubled) % 10
            for last in range(10):
                wrong = differ(f'valid("{number}{last}")', bool(valid(f"{number}{last}")), last == check)
                if wrong:
                    return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
