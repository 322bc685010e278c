"""Answers drawn from a policy: their tokens, masks, log-probabilities, seeds; tool calls; what is refused."""

import copy

import pytest
import torch

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.rollouts import Rollouts
from penjing.errors import ConfigError, GenerationError
from penjing.inference.generate import generate_ids
from penjing.inference.sampling import Sampling
from penjing.tokenizer import Tokenizer
from tests.inference import tiny
from tests.inference.test_chat import CALL, TOKENIZER, Scripted, user

PROMPTS = [user("the"), user("in an the"), user("盆景")]
SEEDS = [5, 6, 7]
NEARLY_GREEDY = 0.05
"""At this temperature a scripted answer's tokens have a logit of 180 more than all others."""


def make_model(seed=0, **shape):
    return tiny.model(TOKENIZER.vocab_size, context=120, seed=seed, **shape)


def drawn(model, prompts=PROMPTS, seeds=SEEDS, **how):
    return Rollouts(**{"n": 4, "max_new_tokens": 12, **how}).draw(model, TOKENIZER, prompts, seeds)


def tokens_of(groups):
    return [answer.tokens for group in groups for answer in group]


def test_an_answer_is_its_prompt_and_the_tokens_that_were_drawn():
    for prompt, group in zip(PROMPTS, drawn(make_model()), strict=True):
        start = TOKENIZER.chat.render(prompt, add_generation_prompt=True).ids
        assert len(group) == 4
        for answer in group:
            ids, mask = answer.tokens.ids, answer.tokens.mask
            assert ids[: len(start)] == start
            assert mask == [False] * len(start) + [True] * answer.length
            assert answer.truncated == (ids[-1] not in TOKENIZER.stop_ids)
            assert answer.length == 12 if answer.truncated else answer.length <= 12


def test_answers_are_those_of_the_sampler_with_the_prompt_s_seed():
    """Oracle: `generate_ids`, whose own tests have its distribution. Each sample has a stream of its own."""
    model = make_model()
    groups = drawn(model, temperature=0.7)
    for prompt, seed, group in zip(PROMPTS, SEEDS, groups, strict=True):
        ids = TOKENIZER.chat.render(prompt, add_generation_prompt=True).ids
        sampling = Sampling(temperature=0.7, max_new_tokens=12, seed=seed)
        expected = generate_ids(model, [ids], sampling, stop_ids=TOKENIZER.stop_ids, n=4)
        assert [answer.tokens.ids[len(ids) :] for answer in group] == [list(one.ids) for one in expected]
    assert len({tuple(tokens.ids) for tokens in tokens_of(groups)}) == 12


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_drawn_tokens_at_the_temperature(temperature):
    """Oracle: a pass over the whole answers. float32, sums in another order, divided by 0.7: 1e-4 of values to 15."""
    model = make_model()
    answers = [answer for group in drawn(model, temperature=temperature) for answer in group]
    batch = pack([answer.tokens for answer in answers], AnswerBatch)
    expected, _ = answer_log_probs(model, batch, temperature)
    found = batch.spread([torch.tensor(answer.log_probs) for answer in answers])
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-4)
    assert found.min() < -1


def test_answers_do_not_depend_on_what_else_is_drawn_or_on_seats():
    model = make_model()
    together = tokens_of(drawn(model))
    alone = [tokens for p, s in zip(PROMPTS, SEEDS, strict=True) for tokens in tokens_of(drawn(model, [p], [s]))]
    assert alone == together
    assert tokens_of(drawn(model, seats=2)) == together


def test_nothing_of_earlier_weights_is_remembered():
    """The same object after its weights changed in place draws what a new model with those weights draws."""
    model = make_model()
    before = tokens_of(drawn(model))
    with torch.no_grad():
        for weight, other in zip(model.parameters(), make_model(seed=1).parameters(), strict=True):
            weight.copy_(other)
    assert tokens_of(drawn(model)) == tokens_of(drawn(make_model(seed=1))) != before


def test_draws_in_evaluation_mode_and_leaves_training_as_it_was():
    model = make_model(dropout=0.5)
    expected = tokens_of(drawn(model))
    state = torch.get_rng_state()
    model.train()
    assert tokens_of(drawn(model)) == expected
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_bf16_weights_draw_in_bf16():
    model = make_model().to(torch.bfloat16)
    answers = [answer for group in drawn(model) for answer in group]
    batch = pack([answer.tokens for answer in answers], AnswerBatch)
    exact, _ = answer_log_probs(copy.deepcopy(model).float(), batch)
    found = batch.spread([torch.tensor(answer.log_probs) for answer in answers])
    assert 1e-4 < (found - exact).abs().max() < 0.5


def test_a_tool_s_result_is_read_and_not_trained_on():
    """The conversation is, token for token, the one that serving would render; the mask has the drawn turns alone."""
    model = Scripted(f"Let me see. {CALL}", "It is 5.")
    tools = {"add": lambda a, b: a + b}
    ((answer,),) = drawn(
        model, [user("2 and 3?")], [1], n=1, temperature=NEARLY_GREEDY, max_new_tokens=100, tools=tools
    )
    said = (
        {"role": "assistant", "content": f"Let me see. {CALL}"},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "It is 5."},
    )
    assert answer.messages == said
    rendered = TOKENIZER.chat.render([*user("2 and 3?"), *said])
    end = len(answer.tokens.ids)
    assert answer.tokens.ids == rendered.ids[:end]
    assert answer.tokens.mask == rendered.mask[:end]
    assert rendered.ids[end:] == TOKENIZER.encode("\n")
    assert answer.text == "It is 5."
    assert answer.length == sum(rendered.mask)
    assert not answer.truncated


def test_an_answer_without_a_last_word_has_no_text():
    """Rounds of calls are bounded; the call that was not run is no answer."""
    tools = {"add": lambda a, b: a + b}
    ((answer,),) = drawn(
        Scripted(*[CALL] * 9), [user("2 and 3?")], [1], n=1, temperature=NEARLY_GREEDY, max_new_tokens=100, tools=tools,
        rounds=1,
    )  # fmt: skip
    assert [message["role"] for message in answer.messages] == ["assistant", "tool", "assistant"]
    assert answer.text == ""


def test_an_answer_whose_result_has_no_room_ends_there_and_is_marked():
    prompt = user("2 and 3?")
    length = len(TOKENIZER.chat.render(prompt, add_generation_prompt=True).ids)
    model = Scripted(CALL, "It is 5.", context=length + len(TOKENIZER.encode(CALL)) + 5)
    ((answer,),) = drawn(
        model, [prompt], [1], n=1, temperature=NEARLY_GREEDY, max_new_tokens=100, tools={"add": lambda a, b: a + b}
    )
    assert answer.truncated
    assert answer.tokens.ids[-1] == TOKENIZER.end_of_turn_id
    assert answer.messages == ({"role": "assistant", "content": CALL},)


def test_a_call_in_a_turn_that_was_cut_is_not_run():
    count = len(TOKENIZER.encode(CALL))
    ((answer,),) = drawn(
        Scripted(CALL), [user("2 and 3?")], [1], n=1, temperature=NEARLY_GREEDY, max_new_tokens=count,
        tools={"add": lambda a, b: 1 / 0},
    )  # fmt: skip
    assert answer.truncated
    assert answer.length == count


def test_refuses_what_cannot_be_drawn():
    with pytest.raises(GenerationError, match="prompt 1 has 218 tokens; the model's context of 120"):
        drawn(make_model(), [user("a"), user("a" * 200)], [1, 2])
    with pytest.raises(GenerationError, match="no chat template"):
        Rollouts().draw(make_model(), Tokenizer(TOKENIZER.model), [user("a")], [1])
    with pytest.raises(ConfigError, match="temperature is 0"):
        Rollouts(temperature=0)
    with pytest.raises(ConfigError, match="n is 0"):
        Rollouts(n=0)
