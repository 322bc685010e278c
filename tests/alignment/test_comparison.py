"""Assistants side by side: win rates by hand, divergences against enumeration, a page that shows what differs."""

import math

import pytest
import torch

from penjing.alignment.comparison import Answered, accuracies, answered, divergence, side_by_side, win_rate
from penjing.data.world import dialogue
from penjing.errors import ConfigError
from penjing.stages.settings import Model
from penjing.tokenizer import Tokenizer

ITEMS = [
    dialogue(seed, split="heldout", language=language, skill="dialogue") for language in ("en", "zh") for seed in (1, 2)
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([item.answer for item in ITEMS] * 2, 300)


def make_model(tokenizer, seed):
    model = Model(width=32, layers=1, heads=2, context=512).config(tokenizer.vocab_size).build()
    model.initialise(torch.Generator().manual_seed(seed))
    return model.eval()


def test_a_win_is_a_better_score_and_a_tie_half_a_win():
    found = win_rate([1, 1, 0, 0], [0, 1, 0, 1])
    assert (found.wins, found.losses, found.ties, found.rate) == (1, 1, 2, 0.5)
    assert found.low < 0.5 < found.high
    sure = win_rate([1.0] * 50, [0.0] * 50)
    assert (sure.rate, sure.low, sure.high) == (1, 1, 1)


def test_the_interval_narrows_as_one_over_the_root_of_the_questions():
    """Wins and losses at even odds: a standard error of 1 / (2 sqrt(n)); a bootstrap of 2,000 is within a tenth."""
    for count in (100, 1600):
        found = win_rate([0, 1] * (count // 2), [1, 0] * (count // 2))
        assert found.high - found.low == pytest.approx(2 * 1.96 / (2 * math.sqrt(count)), rel=0.1)


def test_scores_go_in_pairs():
    with pytest.raises(ConfigError, match="they go in pairs"):
        win_rate([1.0], [])


def test_a_model_does_not_diverge_from_itself(tokenizer):
    model = make_model(tokenizer, 1)
    assert divergence(model, model, tokenizer, ITEMS) == (0.0, 0.0)


def test_another_model_diverges_by_what_its_answers_show(tokenizer):
    """Untrained models of small weights are near uniform and differ a little: more than 0, less than a nat a token."""
    mean, error = divergence(make_model(tokenizer, 1), make_model(tokenizer, 2), tokenizer, ITEMS * 4)
    assert 0 < mean < 128
    assert 0 < error < mean


def test_an_assistant_s_answers_are_checked(tokenizer):
    one = answered("untrained", make_model(tokenizer, 1), tokenizer, ITEMS, max_new_tokens=8)
    assert (one.share.right, one.share.items) == (0, 4)


def test_the_page_begins_with_what_they_disagree_about():
    right = Answered("right", tuple(item.answer for item in ITEMS), (True,) * 4)
    partly = Answered("partly", ("x", "y", ITEMS[2].answer, "z"), (True, True, False, True))
    page = side_by_side(ITEMS, [right, partly], 1)
    assert f"- ✓ **right**: {ITEMS[2].answer}" in page
    assert f"- ✗ **partly**: {ITEMS[2].answer}" in page
    shares = accuracies([right, partly], ITEMS)
    assert shares["partly"]["dialogue"].accuracy == 0.75
