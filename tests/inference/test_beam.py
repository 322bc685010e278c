"""Beam search against transformers' on the same weights, and against searching everything."""

import itertools

import pytest
import torch

from penjing.errors import GenerationError
from penjing.inference.beam import BeamSearch, beam_search
from penjing.inference.generate import generate_ids
from penjing.inference.sampling import Sampling
from tests.inference import tiny

MODEL = tiny.model(vocab=19, context=48)


@pytest.fixture(scope="module")
def theirs():
    return tiny.in_transformers(MODEL)


@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_equals_transformers(theirs, beams, penalty, early):
    """Three prompts, two end tokens; the ids of all beams, and their scores within 1e-6 of their size."""
    prompts = [[1, 2, 3], [5], [7, 7, 7, 7]]
    search = BeamSearch(beams, penalty, early, max_new_tokens=10)
    found = beam_search(MODEL, prompts, search, stop_ids={4, 11}, n=beams)
    expected = theirs.generate(
        torch.tensor([[0] * (4 - len(p)) + p for p in prompts]),
        attention_mask=torch.tensor([[0] * (4 - len(p)) + [1] * len(p) for p in prompts]),
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=penalty,
        early_stopping=early,
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=[4, 11],
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for row, score, completion in zip(expected.sequences, expected.sequences_scores, found, strict=True):
        ids = tuple(row[4:].tolist())
        assert ids[: len(completion.ids)] == completion.ids
        assert set(ids[len(completion.ids) :]) <= {0, 4}, "padding"
        assert completion.score == pytest.approx(float(score), rel=1e-6)


def test_one_beam_that_stops_at_once_is_greedy():
    """For several prompts, with end tokens; the same ids."""
    prompts = [[1, 2, 3], [5], [7, 7, 7, 7]]
    search = BeamSearch(beams=1, early_stopping=True, max_new_tokens=12)
    found = beam_search(MODEL, prompts, search, stop_ids={4, 11})
    greedy = generate_ids(MODEL, prompts, Sampling(temperature=0, max_new_tokens=12), stop_ids={4, 11})
    assert [completion.ids for completion in found] == [completion.ids for completion in greedy]


def test_with_enough_beams_it_finds_the_best_of_all():
    """Every sequence of three tokens of a vocabulary of seven, by brute force."""
    model = tiny.model(vocab=7, context=16)
    sequences = torch.tensor(list(itertools.product(range(7), repeat=3)))
    rows = torch.cat([torch.tensor([[1, 2]]).expand(len(sequences), -1), sequences], dim=1)
    logprobs = model(rows).log_softmax(-1)[:, 1:-1]
    totals = logprobs.gather(2, sequences[..., None]).sum(dim=(1, 2)).detach()
    best = sequences[totals.argmax()].tolist()
    found = beam_search(model, [[1, 2]], BeamSearch(beams=49, length_penalty=0.0, max_new_tokens=3))[0]
    assert list(found.ids) == best
    assert sum(found.logprobs) == pytest.approx(float(totals.max()), abs=1e-5)


def test_prompts_are_searched_independently():
    search = BeamSearch(beams=3, max_new_tokens=8)
    together = beam_search(MODEL, [[1, 2], [3]], search, stop_ids={4}, n=2)
    assert together == [c for p in ([1, 2], [3]) for c in beam_search(MODEL, [p], search, stop_ids={4}, n=2)]


def test_text_leaves_out_the_end_token():
    tokenizer = tiny.tokenizer()
    model = tiny.model(tokenizer.vocab_size)
    prompt = tokenizer.encode("the")
    free = beam_search(model, [prompt], BeamSearch(3, max_new_tokens=6))[0]
    ended = beam_search(
        model, [prompt], BeamSearch(3, max_new_tokens=6), stop_ids=range(model.config.vocab), tokenizer=tokenizer
    )[0]
    assert ended.text == ""
    assert ended.reason == "stop"
    assert free.text is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BeamSearch(beams=0), "beams is 0"),
        (lambda: BeamSearch(early_stopping="sometimes"), "early_stopping is 'sometimes'"),
        (lambda: BeamSearch(max_new_tokens=0), "max_new_tokens is 0"),
        (lambda: BeamSearch(length_penalty=500), "length_penalty is 500; it must be -10 to 10"),
        (lambda: BeamSearch(length_penalty=float("nan")), "length_penalty is nan"),
        (lambda: beam_search(MODEL, [[1]], BeamSearch(beams=2), n=3), "n is 3"),
        (lambda: beam_search(MODEL, [[1] * 48], BeamSearch()), "context of 48"),
    ],
)
def test_a_search_that_cannot_be_made_says_why(make, message):
    with pytest.raises(GenerationError, match=message):
        make()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_damaged_logits_are_an_error_not_a_sequence(bad):
    model = tiny.model(vocab=19, context=48)
    with torch.no_grad():
        model.head.weight[3, 0] = bad
    with pytest.raises(GenerationError, match="not finite"):
        beam_search(model, [[1, 2]], BeamSearch(beams=2, max_new_tokens=3))
