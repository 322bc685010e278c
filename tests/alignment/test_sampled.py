"""Pairs and better answers of the model's own: who is paired with whom, what is kept, that a seed decides."""

import pytest

from penjing.alignment import sampled
from penjing.alignment.rollouts import Rollout, Rollouts
from penjing.alignment.sampled import Sampled
from penjing.data.world import check
from penjing.errors import DataError
from penjing.stages.settings import Model
from penjing.tokenizer.chat import ChatTokens
from penjing.tokenizer.tokenizer import Tokenizer
from tests.data.conftest import BYTES

PROMPT = ({"role": "user", "content": "?"},)


def said(text):
    return ({"role": "assistant", "content": text},)


def make(scores, texts=None):
    texts = texts or [f"answer {number}" for number in range(len(scores))]
    return Sampled(PROMPT, tuple(map(said, texts)), tuple(scores))


def told(pairs):
    return [(pair.chosen[0]["content"], pair.rejected[0]["content"], pair.margin) for pair in pairs]


def test_answers_above_the_mean_are_paired_with_those_below_the_best_with_the_worst():
    """By hand: the mean is 0.45, so answers 1, 0 and 3 are over 2 and 4, and 2 has two turns."""
    one = make([0.5, 1.0, 0.0, 0.5, 0.25])
    assert told(sampled.pairs_of([one], most=9)) == [
        ("answer 1", "answer 2", 1.0), ("answer 0", "answer 4", 0.25), ("answer 3", "answer 2", 0.5)
    ]  # fmt: skip
    assert told(sampled.pairs_of([one])) == [("answer 1", "answer 2", 1.0)]
    assert len(sampled.pairs_of([make([0, 0, 1, 0])], most=9)) == 3
    assert sampled.pairs_of([make([1.0, 1.0]), make([0.0]), make([])]) == []


def test_a_pair_that_was_drawn_twice_is_one():
    one = make([1, 1, 0, 0], ["yes", "yes", "no", "no"])
    assert told(sampled.pairs_of([one], most=9)) == [("yes", "no", 1)]
    assert sampled.pairs_of([make([0]), one])[0].origin == "prompt 1"


def test_the_best_answer_that_is_good_enough_becomes_a_conversation():
    found = sampled.best_of([make([0.2, 0.9, 0.9]), make([0.1]), make([])], least=0.5)
    assert [one.messages for one in found] == [(*PROMPT, *said("answer 1"))]
    assert found[0].origin == "prompt 0"


def test_items_take_languages_and_skills_in_turn():
    items = sampled.world_items(6, seed=10, skills=["calendar", "words", "counting"], languages=("en", "zh"))
    assert [(item.language, item.skill) for item in items] == [
        ("en", "calendar"), ("zh", "calendar"), ("en", "words"), ("zh", "words"), ("en", "counting"), ("zh", "counting")
    ]  # fmt: skip
    assert items == sampled.world_items(6, seed=10, skills=["calendar", "words", "counting"])
    assert items[0].messages != sampled.world_items(1, seed=11, skills=["calendar"])[0].messages
    with pytest.raises(DataError, match="need a language"):
        sampled.world_items(1, languages=())


def test_right_answers_score_one_and_wrong_ones_nothing():
    item = sampled.world_items(1, skills=["calendar"], notes=False)[0]
    rollout = lambda text: Rollout(ChatTokens([], []), (), said(text), False)  # noqa: E731
    assert check(item, item.answer)
    assert sampled.checked([item])(0, rollout(item.answer)) == 1
    assert sampled.checked([item])(0, rollout("never")) == 0


def test_the_same_seed_draws_the_same_and_what_was_cut_is_left_out():
    """An untrained model hardly ever ends its answers: those that are cut at 4 tokens are not among the answers."""
    import torch

    tokenizer = Tokenizer.around(BYTES)
    model = Model(width=16, layers=1, heads=2, context=64).config(tokenizer.vocab_size).build()
    model.initialise(torch.Generator().manual_seed(1))
    prompts, drawn = [PROMPT, PROMPT], []

    def score(number, answer):
        drawn.append((number, answer.messages))
        assert not answer.truncated
        return float(len(answer.text))

    with torch.no_grad():  # the end of the turn becomes likely, so that some answers end in time
        model.embedding.weight[258] *= 40
    options = {"rollouts": Rollouts(n=6, max_new_tokens=4), "seed": 3}
    first = sampled.sample(model, tokenizer, prompts, score, **options)
    again = sampled.sample(model, tokenizer, prompts, score, **options)
    assert first == again
    kept = [len(one.answers) for one in first]
    assert kept == [len(one.scores) for one in first]
    assert 0 < sum(kept) < 12
    assert len(drawn) == 2 * sum(kept)
