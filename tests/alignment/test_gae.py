"""Advantages, whitening and the KL coefficient against published values and by hand."""

import pytest
import torch

from penjing.alignment import gae
from penjing.alignment.batch import AnswerBatch, pack
from penjing.errors import ConfigError
from penjing.tokenizer.chat import ChatTokens

ROWS = [
    # rewards, values, gamma, lambda, advantages; the first is torchtune's (its returns less the values)
    ([0, 0, 0, 1], [0, 0, 0, 1], 0.9, 0.95, [0.657922, 0.7695, 0.9, 0.0]),
    ([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4], 1, 0.95, [0.799675, 0.7365, 0.67, 0.6]),
    ([1, 2, 3], [0.5, 0.5, 0.5], 0.99, 0.95, [5.082648, 4.34625, 2.5]),
    ([0, 0, 1], [0.1, 0.2, 0.3], 1, 1, [0.9, 0.8, 0.7]),
    ([0, 0, 1], [0.1, 0.2, 0.3], 1, 0, [0.1, 0.1, 0.7]),
]


@pytest.mark.parametrize(("rewards", "values", "gamma", "lam", "expected"), ROWS)
def test_advantages_of_published_rows(rewards, values, gamma, lam, expected):
    found = gae.advantages(torch.tensor([rewards]).float(), torch.tensor([values]).float(), gamma, lam)
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=0, atol=1e-6)


def test_advantages_by_the_sum_that_defines_them():
    """A_t = sum of (gamma lambda)^k delta_(t+k), in float64, 1e-12; an answer's padding takes no part in it."""
    generator = torch.Generator().manual_seed(0)
    lengths, gamma, lam = [7, 3, 1], 0.9, 0.8
    rewards, values = (torch.randn(3, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    real = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    found = gae.advantages(rewards * real, values * real, gamma, lam)
    for row, length in enumerate(lengths):
        after = torch.cat([values[row, 1:length], torch.zeros(1, dtype=torch.float64)])
        delta = rewards[row, :length] + gamma * after - values[row, :length]
        for t in range(length):
            expected = sum((gamma * lam) ** k * delta[t + k] for k in range(length - t))
            torch.testing.assert_close(found[row, t], expected, rtol=0, atol=1e-12)
    assert not found[~real].any()


def test_the_kl_penalty_and_the_score_of_torchtune_s_rows():
    """Coefficient .5, log-ratios -.1, -.2, -.3 everywhere, scores 1, 2, 3 at the last tokens."""
    ratios = torch.tensor([[-0.1] * 3, [-0.2] * 3, [-0.3] * 3])
    found = gae.token_rewards(torch.tensor([1.0, 2.0, 3.0]), ratios, torch.ones(3, 3, dtype=torch.bool), 0.5)
    expected = torch.tensor([[0.05, 0.05, 1.05], [0.1, 0.1, 2.1], [0.15, 0.15, 3.15]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_score_is_at_an_answer_s_own_last_token():
    real = torch.tensor([[True, True, False], [True, True, True]])
    found = gae.token_rewards(torch.tensor([1.0, 2.0]), torch.ones(2, 3), real, 0.1)
    torch.testing.assert_close(found, torch.tensor([[-0.1, 0.9, 0.0], [-0.1, -0.1, 1.9]]))


def test_whitening_before_and_after():
    """1 2 3 4: mean 2.5, variance 1.25, or 5/3 with a correction of 1; a kept mean is added again."""
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    plain = torch.tensor([-1.341641, -0.447214, 0.447214, 1.341641])
    torch.testing.assert_close(gae.whitened(values), plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(gae.whitened(values, keep_mean=True), plain + 2.5, rtol=0, atol=1e-6)
    corrected = gae.whitened(values, correction=1)
    torch.testing.assert_close(corrected, (values - 2.5) / (5 / 3) ** 0.5, rtol=0, atol=1e-6)
    assert gae.whitened(torch.tensor([3.0])).item() == 0


@pytest.mark.parametrize(
    ("divergence", "factor"),
    [(6.0, 1.0), (6.6, 1 + 0.1 * 512 / 10_000), (60.0, 1 + 0.2 * 512 / 10_000), (0.0, 1 - 0.2 * 512 / 10_000)],
)
def test_the_adaptive_coefficient_follows_the_formula(divergence, factor):
    """lm-human-preferences': at the target, 10 % above it, far above and far below, where it moves by 20 % at most."""
    kl = gae.AdaptiveKL(0.15, target=6.0, horizon=10_000)
    assert kl.next(0.15, divergence, 512) == pytest.approx(0.15 * factor)
    assert gae.FixedKL(0.15).next(0.15, divergence, 512) == 0.15


def test_a_table_has_a_row_for_each_answer_wherever_its_tokens_are():
    """Four answers packed into fewer rows; one has a stretch in its middle that does not count."""
    answers = [
        ChatTokens([0] * 3 + [1, 2], [False] * 3 + [True] * 2),
        ChatTokens([0] * 2 + [3, 9, 9, 4, 5], [False] * 2 + [True, False, False, True, True]),
        ChatTokens([0, 6], [False, True]),
        ChatTokens([0] * 3 + [7, 8, 1, 2], [False] * 3 + [True] * 4),
    ]
    batch = pack(answers, AnswerBatch)
    assert len(batch.tokens) < 4
    table = gae.Table.of(batch)
    said = batch.targets.flatten()[batch.counted].float()
    assert table.laid_out(said).tolist() == [[1, 2, 0, 0], [3, 4, 5, 0], [6, 0, 0, 0], [7, 8, 1, 2]]
    assert torch.equal(table.flat(table.laid_out(said)), said)


def test_refuses_coefficients_that_cannot_be():
    with pytest.raises(ConfigError, match="must not be negative"):
        gae.FixedKL(-0.1)
    with pytest.raises(ConfigError, match="more than 0"):
        gae.AdaptiveKL(0.1, target=0.0)
