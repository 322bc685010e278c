"""Each transformation of logits against transformers' processor of the same name, and what must hold whatever it is."""

import math

import pytest
import torch
from transformers.generation import logits_process as hf

from penjing.inference import logits as ours

INF = float("inf")


def random_logits(batch: int = 5, vocab: int = 97, seed: int = 0) -> torch.Tensor:
    """Logits with a spread like a language model's, some of them -inf."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(batch, vocab, generator=generator)
    return logits.masked_fill(torch.rand(batch, vocab, generator=generator) < 0.1, -INF)


@pytest.mark.parametrize("penalty", [0.7, 1.3, 5.0])
def test_repetition_penalty_equals_transformers(penalty):
    """Prompts with repeated tokens; exact, -inf included."""
    logits = random_logits()
    ids = torch.randint(97, (5, 12), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(5, 97, dtype=torch.bool).scatter(1, ids, True)
    expected = hf.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    assert torch.equal(ours.repetition_penalty(logits, seen, penalty), expected)


def test_bias_equals_transformers():
    """Its sequence bias for sequences of one token; exact, -inf included."""
    logits, added = random_logits(), {3: -100.0, 40: 2.5, 96: 100.0}
    ids = torch.zeros(5, 1, dtype=torch.long)
    expected = hf.SequenceBiasLogitsProcessor({(id,): value for id, value in added.items()})(ids, logits)
    assert torch.equal(ours.bias(logits, added), expected)


def test_presence_and_frequency_penalties_are_openais():
    """Their formula by hand: logit - count * frequency - (count > 0) * presence."""
    logits = torch.tensor([[1.0, 2.0, -3.0, -INF]])
    counts = torch.tensor([[0, 1, 3, 2]], dtype=torch.int32)
    found = ours.count_penalties(logits, counts, presence=0.5, frequency=0.25)
    assert torch.equal(found, torch.tensor([[1.0, 1.25, -4.25, -INF]]))


@pytest.mark.parametrize("value", [0.1, 0.7, 2.0])
def test_temperature_equals_transformers(value):
    """Exact."""
    logits = random_logits()
    assert torch.equal(ours.temperature(logits, value), hf.TemperatureLogitsWarper(value)(None, logits))


@pytest.mark.parametrize("k", [1, 2, 10, 96, 97, 500])
def test_top_k_equals_transformers(k):
    """Exact, with -inf in the logits, k beyond the vocabulary, and ties (integer logits)."""
    for logits in (random_logits(), random_logits().round()):
        assert torch.equal(ours.top_k(logits, k), hf.TopKLogitsWarper(k)(None, logits))


@pytest.mark.parametrize("vocab", [97, 2000])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.99, 0.999])
def test_top_p_equals_transformers(p, vocab):
    """Exact on logits without ties; 2,000 tokens, flat and peaked, take both the short and the full way."""
    for scale in (0.05, 1.0):
        logits = scale * random_logits(vocab=vocab, seed=2)
        assert torch.equal(ours.top_p(logits, p), hf.TopPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_top_p_keeps_all_of_equal_tokens(p):
    """With ties transformers keeps some of the least probable kept tokens; we keep those, and all their equals."""
    logits = random_logits().round()
    found, theirs = ours.top_p(logits, p), hf.TopPLogitsWarper(p)(None, logits)
    kept = theirs > -INF
    assert torch.equal(found[kept], logits[kept])
    least = theirs.masked_fill(~kept, INF).amin(dim=-1, keepdim=True)
    assert torch.equal(found > -INF, logits >= least)


@pytest.mark.parametrize("p", [0.001, 0.05, 0.3, 1.0])
def test_min_p_equals_transformers(p):
    """Exact, with -inf in the logits."""
    for seed in range(5):
        logits = random_logits(seed=seed)
        assert torch.equal(ours.min_p(logits, p), hf.MinPLogitsWarper(p)(None, logits))


def test_all_together_equal_transformers_in_its_order():
    """The chain that transformers' generate builds for the same settings; exact."""
    logits = random_logits(vocab=900, seed=3)
    ids = torch.randint(900, (5, 30), generator=torch.Generator().manual_seed(4))
    expected = logits
    for step in (
        hf.RepetitionPenaltyLogitsProcessor(1.2),
        hf.TemperatureLogitsWarper(0.8),
        hf.TopKLogitsWarper(40),
        hf.TopPLogitsWarper(0.9),
        hf.MinPLogitsWarper(0.02),
    ):
        expected = step(ids, expected)
    found = ours.repetition_penalty(logits, torch.zeros(5, 900, dtype=torch.bool).scatter(1, ids, True), 1.2)
    found = ours.min_p(ours.top_p(ours.top_k(ours.temperature(found, 0.8), 40), 0.9), 0.02)
    assert torch.equal(found, expected)


def test_no_cut_takes_the_most_probable_token():
    """The sharpest cut of each kind leaves exactly the maximum."""
    logits = random_logits(seed=5)
    best = logits.argmax(dim=-1)
    for cut in (ours.top_k(logits, 1), ours.top_p(logits, 1e-9), ours.min_p(logits, 1.0)):
        assert torch.equal((cut > -INF).sum(dim=-1), torch.ones(5, dtype=torch.long))
        assert torch.equal(cut.argmax(dim=-1), best)


def test_draws_follow_the_distribution():
    """Evenly spaced numbers invert to each token as often as its probability says, within one in the thousand."""
    logits = random_logits(batch=1, vocab=13)
    uniforms = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    counts = ours.draw(logits.expand(10_000, -1), uniforms).bincount(minlength=13) / 10_000
    torch.testing.assert_close(counts, logits.softmax(-1)[0], atol=1e-3, rtol=0)


def test_a_draw_never_takes_an_impossible_token():
    """The extremes of [0, 1), and 1, to which float32 rounds; impossible tokens at both ends and between."""
    logits = torch.tensor([[-INF, 0.0, -INF, -20.0, -INF]]).expand(3, -1)
    found = ours.draw(logits, torch.tensor([0.0, math.nextafter(1.0, 0.0), 1.0], dtype=torch.float64))
    assert found.tolist() == [1, 3, 3]
