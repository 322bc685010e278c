"""The chain's sums and best rows against counting all of them, its gradient against autograd's and differences'."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from penjing.errors import ConfigError
from penjing.serving.safety.crf import NEVER, log_partition, marginals, row_scores, viterbi

LENGTHS = (4, 1, 3)
LABELS = 3


@pytest.fixture
def drawn():
    """Three rows of different lengths, in float64; what the mask leaves out is full of other numbers."""
    generator = torch.Generator().manual_seed(1)
    emissions = torch.randn(len(LENGTHS), 4, LABELS, generator=generator, dtype=torch.float64) * 2
    transitions = torch.randn(LABELS, LABELS, generator=generator, dtype=torch.float64)
    mask = torch.arange(4)[None] < torch.tensor(LENGTHS)[:, None]
    return emissions, transitions, mask


def score(emissions, transitions, labels):
    """By the definition."""
    total = sum(emissions[t, label] for t, label in enumerate(labels))
    return total + sum(transitions[a, b] for a, b in pairwise(labels))


def all_rows(emissions, transitions):
    """Every row of labels with its score."""
    return {row: score(emissions, transitions, row) for row in product(range(LABELS), repeat=len(emissions))}


def test_log_z_is_the_sum_over_every_row_of_labels(drawn):
    """Brute force over up to 81 rows, float64, 1e-12."""
    emissions, transitions, _ = drawn
    found = log_partition(*drawn)
    for number, length in enumerate(LENGTHS):
        scores = torch.stack(list(all_rows(emissions[number, :length], transitions).values()))
        torch.testing.assert_close(found[number], torch.logsumexp(scores, 0), rtol=1e-12, atol=1e-12)


def test_a_rows_score_is_the_definitions(drawn):
    emissions, transitions, mask = drawn
    labels = torch.tensor([[0, 2, 1, 1], [2, 0, 0, 0], [1, 1, 0, 2]])
    found = row_scores(emissions, transitions, mask, labels)
    for number, length in enumerate(LENGTHS):
        own = score(emissions[number, :length], transitions, labels[number, :length].tolist())
        torch.testing.assert_close(found[number], own, rtol=1e-12, atol=1e-12)


def test_marginals_are_shares_of_all_rows(drawn):
    """Brute force, 1e-12; they sum to 1 where there is a token and are 0 where there is none."""
    emissions, transitions, mask = drawn
    found = marginals(*drawn)
    torch.testing.assert_close(found.sum(2), mask.double(), rtol=0, atol=1e-12)
    for number, length in enumerate(LENGTHS):
        rows = all_rows(emissions[number, :length], transitions)
        total = sum(value.exp() for value in rows.values())
        for time, label in product(range(length), range(LABELS)):
            own = sum(value.exp() for row, value in rows.items() if row[time] == label) / total
            torch.testing.assert_close(found[number, time, label], own, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_autograds_and_that_of_differences(drawn):
    """Autograd through the sum over all rows (1e-12), and central differences by `gradcheck` (its defaults)."""
    emissions, transitions, mask = drawn
    emissions.requires_grad_()
    transitions.requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    mine = torch.autograd.grad((log_partition(emissions, transitions, mask) * weights).sum(), (emissions, transitions))
    sums = [
        torch.logsumexp(torch.stack(list(all_rows(emissions[number, :length], transitions).values())), 0)
        for number, length in enumerate(LENGTHS)
    ]
    counted = torch.autograd.grad((torch.stack(sums) * weights).sum(), (emissions, transitions))
    for one, other in zip(mine, counted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda e, a: log_partition(e, a, mask), (emissions, transitions))


def test_viterbi_finds_what_an_exhaustive_search_finds():
    """Fifty drawn rows of one to five tokens; scores are all different, so the best row is one."""
    random = np.random.default_rng(0)
    for _ in range(50):
        emissions, transitions = random.normal(size=(random.integers(1, 6), LABELS)), random.normal(size=(LABELS,) * 2)
        rows = all_rows(emissions, transitions)
        assert tuple(viterbi(emissions, transitions)) == max(rows, key=rows.get)
    assert viterbi(np.zeros((0, LABELS)), transitions) == []


def test_what_cannot_be_never_is(drawn):
    """A forbidden step has no share in any marginal, and is in no best row however high its ends score."""
    emissions, transitions, mask = drawn
    transitions[0, 1] = NEVER
    emissions[:, 0, 0] += 60
    emissions[:, 1, 1] += 10
    assert viterbi(emissions[0].numpy(), transitions.numpy())[:2] != [0, 1]
    assert float(marginals(emissions, transitions, mask)[0, 1, 1]) < 1e-6


def test_long_rows_neither_overflow_nor_vanish():
    """2,000 tokens of equal scores: log Z is 2,000 (s + log 3) in float32, to 1e-5 of it; marginals are thirds."""
    emissions, transitions, mask = torch.full((1, 2000, 3), 5.0), torch.zeros(3, 3), torch.ones(1, 2000).bool()
    found = log_partition(emissions, transitions, mask)
    assert float(found) == pytest.approx(2000 * (5 + np.log(3)), rel=1e-5)
    torch.testing.assert_close(
        marginals(emissions, transitions, mask), torch.full((1, 2000, 3), 1 / 3), rtol=0.01, atol=0
    )


def test_a_row_without_tokens_is_refused():
    with pytest.raises(ConfigError, match="without tokens"):
        log_partition(torch.zeros(1, 2, 3), torch.zeros(3, 3), torch.tensor([[False, False]]))
