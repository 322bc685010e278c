"""Answers to chapter 16: ours."""

import math


def token_mask(arrows, accepting, state, tokens, left):
    need = [0 if number in accepting else math.inf for number in range(len(arrows))]
    for _ in arrows:  # a way that is shortest visits no state twice
        for number, row in enumerate(arrows):
            need[number] = min([need[number], *(1 + need[after] for after in row.values())])

    def needed_after(token):
        at = state
        for byte in token:
            if byte not in arrows[at]:
                return math.inf
            at = arrows[at][byte]
        return need[at]

    return [needed_after(token) < left for token in tokens]


def masked_probability(model, valid, text):
    probability = 1.0
    for place in range(len(text) + 1):
        prefix = text[:place]
        chances = model(prefix)
        allowed = {
            token: chance
            for token, chance in chances.items()
            if (prefix in valid if token == "" else any(each.startswith(prefix + token) for each in valid))
        }
        probability *= allowed[text[place : place + 1]] / sum(allowed.values())
    return probability
