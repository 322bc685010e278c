"""Answers to chapter 21: ours."""


def estimate(one, two, hashes):
    agree = [min(map(h, one)) == min(map(h, two)) for h in hashes]
    return sum(agree) / len(agree)


def valid(number):
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
