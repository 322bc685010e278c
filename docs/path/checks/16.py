"""Checks chapter 16: python docs/path/checks/16.py my_answer.py."""

import itertools
import math
import random
import re
import sys

from checking import Checks, differ

from penjing.inference.constrained import GrammarConstraint, Vocabulary, compile_regex
from penjing.inference.constrained.automaton import matching
from penjing.inference.constrained.machine import machine_of
from penjing.tokenizer import Tokenizer
from penjing.tokenizer.bpe import BytePairModel

checks = Checks()

LONGER = ("ab", "ba", "abc", "aab", "ca", "12", "120", "0.", ".5", "-1", "20", "24-", "-0", "true", "tr", "ue", "fals")


def vocabulary() -> Vocabulary:
    """Every byte and some longer tokens."""
    tokens = [bytes([byte]) for byte in range(256)] + [token.encode() for token in LONGER]
    return Vocabulary(Tokenizer.around(BytePairModel.from_ranks({t: n for n, t in enumerate(tokens)}, "gpt2")))


def automaton(pattern: str, usable: int) -> tuple[list[dict[int, int]], set[int]]:
    """A pattern's automaton over bytes. Where no "b" may come it has arrows that lead nowhere."""
    machine = machine_of(matching(pattern), "plain", usable=usable)
    assert machine is not None
    numbers = {machine.start: 0}
    arrows: list[dict[int, int]] = []
    waiting = [machine.start]
    for place in waiting:
        row: dict[int, int] = {}
        for bytes_, after in machine.moves(place):
            if after not in numbers:
                numbers[after] = len(numbers)
                waiting.append(after)
            row |= {byte: numbers[after] for byte in range(256) if bytes_ >> byte & 1}
        arrows.append(row)
    nowhere = len(arrows)
    for row in arrows:
        row.setdefault(ord("b"), nowhere)
    arrows.append({ord("b"): nowhere, ord("a"): nowhere})
    return arrows, {number for place, number in numbers.items() if machine.accepts(place)}


@checks.exercise("token_mask")
def _(token_mask):
    dice, words = random.Random(1), vocabulary()
    plain = [token for id, token in enumerate(words.tokens) if id not in words.end_ids and token]
    ids = [words.tokens.index(token) for token in plain]
    for pattern in (
        "ab",
        "(ab|c)*a",
        "a{2,5}(b|ca)",
        r"-?(0|[1-9]\d{0,3})(\.\d+)?",
        "20[12][0-9]-0[1-9]",
        "true|false",
    ):
        constraint = compile_regex(pattern, words)
        arrows, accepting = automaton(pattern, words.usable)
        for _ in range(4):
            state, stack = 0, constraint.start()
            for _ in range(dice.randrange(4)):
                allowed = [id for id in ids if len(words.tokens[id]) == 1 and constraint.mask(stack)[id]]
                if allowed:
                    id = dice.choice(allowed)
                    state, stack = arrows[state][words.tokens[id][0]], constraint.advance(stack, id)
            for left in (max(1, constraint.shortest(stack)), constraint.shortest(stack) + 1, 1000):
                expected = constraint.mask(stack, within=left)[ids].tolist()
                given = token_mask([dict(row) for row in arrows], set(accepting), state, list(plain), left)
                if list(map(bool, given)) != expected:
                    wrong = next(n for n, (a, b) in enumerate(zip(given, expected, strict=True)) if bool(a) != b)
                    return (
                        f"in the automaton of {pattern!r}, state {state}, with {left} tokens left, the token "
                        f"{plain[wrong]!r} {'may' if expected[wrong] else 'may not'} come"
                    )
    return None


@checks.exercise("masked_probability")
def _(masked_probability):
    words = vocabulary()
    for seed, valid in enumerate((["a"], ["ab", "b"], ["a", "ab", "abc"], ["aa", "ab", "ba", "bbb"], ["cab", "cabba"])):
        constraint = compile_regex("|".join(map(re.escape, valid)), words)

        def model(prefix: str, seed: int = seed) -> dict[str, float]:
            dice = random.Random(f"{seed} {prefix}")
            weights = {token: math.exp(2 * dice.gauss(0, 1)) for token in ("a", "b", "c", "")}
            return {token: weight / sum(weights.values()) for token, weight in weights.items()}

        for text in valid:
            call = f"masked_probability(model, {valid}, {text!r})"
            expected = as_masked(constraint, model, text)
            wrong = differ(call, masked_probability(model, list(valid), text), expected)
            if wrong:
                return wrong
    return None


def as_masked(constraint: GrammarConstraint, model, text: str) -> float:
    """The probability of a text that is drawn character by character from what the constraint's masks leave."""
    words, state, probability = constraint.vocabulary, constraint.start(), 1.0
    end = min(words.end_ids)
    id_of = {token: words.tokens.index(token.encode()) if token else end for token in ("a", "b", "c", "")}
    for place, wanted in enumerate(itertools.chain(text, [""])):
        mask, chances = constraint.mask(state), model(text[:place])
        left = {token: chance for token, chance in chances.items() if mask[id_of[token]]}
        probability *= left[wanted] / sum(left.values())
        state = constraint.advance(state, id_of[wanted])
    return probability


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
