"""The settings of a request and the sampler."""

import pytest
import torch

from penjing.errors import GenerationError
from penjing.inference.sampling import Row, Sampling, choose


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("temperature", None),
        ("top_k", 0),
        ("top_k", 1.5),
        ("top_p", 1.1),
        ("top_p", 0.0),
        ("min_p", -0.5),
        ("min_p", 2),
        ("repetition_penalty", 0.0),
        ("presence_penalty", float("inf")),
        ("frequency_penalty", float("nan")),
        ("logit_bias", {-1: 5.0}),
        ("logit_bias", {"a": 5.0}),
        ("logit_bias", {3: float("nan")}),
        ("logit_bias", [3]),
        ("max_new_tokens", 0),
        ("max_new_tokens", True),
        ("stop", ("",)),
        ("stop", (3,)),
        ("stop", 5),
        ("seed", 1.5),
        ("logprobs", -1),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(name, value):
    with pytest.raises(GenerationError, match=f"^{name} is "):
        Sampling(**{name: value})


def test_an_unknown_setting_suggests_the_nearest():
    with pytest.raises(GenerationError, match="did you mean 'temperature'"):
        Sampling.of(temprature=1)


def test_one_stop_string_needs_no_tuple():
    assert Sampling(stop="END").stop == ("END",)
    assert Sampling(stop=["a", "b"]).stop == ("a", "b")
    assert Sampling(stop=None).stop == ()


def draws(sampling: Sampling, logits: torch.Tensor, steps: int, samples: int = 1) -> list[list[int]]:
    rows = [Row(sampling, [0], sample, logits.shape[-1], logits.device) for sample in range(samples)]
    return [choose(logits.expand(samples, -1), rows) for _ in range(steps)]


def test_a_temperature_next_to_zero_is_greedy():
    """No overflow: the smallest positive float gives the most probable token."""
    logits = torch.tensor([[1.0, 90.0, 89.9, -90.0]])
    assert draws(Sampling(temperature=5e-324, seed=0), logits, 5) == [[1]] * 5


def test_samples_of_one_request_differ_and_the_first_is_the_one_alone():
    logits = torch.zeros(1, 1000)
    alone, several = draws(Sampling(seed=7), logits, 10), draws(Sampling(seed=7), logits, 10, samples=3)
    assert [step[0] for step in alone] == [step[0] for step in several]
    assert len({tuple(step[row] for step in several) for row in range(3)}) == 3


def test_a_seed_gives_the_same_numbers_everywhere():
    """Known values: a change of them would change what every seed gives."""
    assert draws(Sampling(seed=1), torch.zeros(1, 1000), 4) == KNOWN


KNOWN = [[906], [381], [439], [445]]


def test_without_a_seed_draws_differ():
    logits = torch.zeros(1, 10_000)
    assert draws(Sampling(), logits, 5) != draws(Sampling(), logits, 5)


def test_frequency_penalty_counts_generated_tokens_only():
    """Equal logits and a penalty of 1 for each use: greedy goes round the vocabulary, the prompt's token first."""
    sampling = Sampling(temperature=0, frequency_penalty=1.0)
    assert draws(sampling, torch.zeros(1, 4), 8) == [[0], [1], [2], [3], [0], [1], [2], [3]]


def test_repetition_penalty_counts_the_prompt_too():
    """The prompt's token 0 has the largest logit and loses it to the penalty."""
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    assert draws(sampling, torch.tensor([[3.0, 2.0, 1.8, -1.0]]), 3) == [[1], [2], [0]]


def test_a_biased_token_is_chosen_or_never_chosen():
    """Greedy takes what +100 is added to, and of the rest the best where -100 is added to the best."""
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert draws(Sampling(temperature=0, logit_bias={0: 100.0}), logits, 1) == [[0]]
    assert draws(Sampling(temperature=0, logit_bias={1: -100.0}), logits, 1) == [[2]]


def test_rows_of_one_batch_keep_their_own_bias():
    logits = torch.zeros(3, 4)
    settings = [Sampling(temperature=0, logit_bias={id: 1.0}) for id in (3, 1)] + [Sampling(temperature=0)]
    assert choose(logits, [Row(each, [0], 0, 4, logits.device) for each in settings]) == [3, 1, 0]


def test_a_bias_of_an_unknown_token_is_refused():
    with pytest.raises(GenerationError, match="logit_bias has the id 4; the model's ids are 0 to 3"):
        Row(Sampling(logit_bias={4: 1.0}), [0], 0, 4, torch.device("cpu"))


def test_damaged_logits_are_an_error_not_a_token():
    for bad in (float("nan"), float("inf")):
        with pytest.raises(GenerationError, match="not finite"):
            draws(Sampling(temperature=0), torch.tensor([[0.0, bad]]), 1)
