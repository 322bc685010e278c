"""Advantages and losses of GRPO and its kin: tables of the literature, hand derivations, invariants."""

import math
from dataclasses import replace

import pytest
import torch

from penjing.alignment.batch import pack
from penjing.alignment.grpo import GRPO, Advantages, GroupBatch, group_advantages, methods
from penjing.alignment.kl import ESTIMATORS
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.rollout_loader import RolloutBatch, RolloutLoader, each
from penjing.alignment.rollouts import Rollouts
from penjing.alignment.surrogates import Cispo, Clip, Sapo, Vespo
from penjing.errors import ConfigError, DataError, TrainingError
from penjing.tokenizer.chat import ChatTokens
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from tests.inference import tiny
from tests.inference.test_chat import TOKENIZER, user

METHODS = methods(max_length=8)
LENGTHS = ((3, 4), (5, 8), (2, 1), (7, 6), (4, 4), (3, 2))
"""Prompt and answer of six answers, two of each of three prompts."""


def one_group(rewards, kind):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    count = torch.zeros(len(rewards), dtype=torch.long)
    return group_advantages(rewards, count, count + 3, kind).tolist()


@pytest.mark.parametrize(
    ("rewards", "grpo", "dr_grpo", "rloo"),
    [
        ([1, 0, 0, 0], [1.499700, *[-0.499900] * 3], [0.75, *[-0.25] * 3], [1, *[-1 / 3] * 3]),
        ([1, 1, 0, 0], [0.865875] * 2 + [-0.865875] * 2, [0.5] * 2 + [-0.5] * 2, [0.666667] * 2 + [-0.666667] * 2),
        ([1, *[0] * 7], [2.474174, *[-0.353453] * 7], [0.875, *[-0.125] * 7], [1, *[-0.142857] * 7]),
        (
            [0.1, 1.1, 0.1, 0],
            [-0.433599, 1.493507, -0.433599, -0.626310],
            [-0.225, 0.775, -0.225, -0.325],
            [-0.3, 1.033333, -0.3, -0.433333],
        ),
        ([1, 1, 1, 1], [0] * 4, [0] * 4, [0] * 4),
    ],
)
def test_advantages_of_the_literature(rewards, grpo, dr_grpo, rloo):
    """Printed values, six digits."""
    assert one_group(rewards, "grpo") == pytest.approx(grpo, abs=5e-7)
    assert one_group(rewards, "dr_grpo") == pytest.approx(dr_grpo, abs=5e-7)
    assert one_group(rewards, "rloo") == pytest.approx(rloo, abs=5e-7)


@pytest.mark.parametrize("kind", ["reinforce_plus", "reinforce_plus_baseline"])
def test_reinforce_plus_whitens_over_all_tokens(kind):
    """Oracle: each answer's reward written at each of its tokens, whitened with torch's mean and unbiased variance."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(12, dtype=torch.float64, generator=generator)
    groups, lengths = torch.arange(12) // 4, torch.randint(1, 9, (12,), generator=generator)
    centred = rewards - rewards.unflatten(0, (3, 4)).mean(1).repeat_interleave(4)
    tokens = (rewards if kind == "reinforce_plus" else centred).repeat_interleave(lengths)
    white = (tokens - tokens.mean()) / (tokens.var() + 1e-8).sqrt()
    mine = group_advantages(rewards, groups, lengths, kind)
    torch.testing.assert_close(mine.repeat_interleave(lengths), white, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_advantages_depend_on_the_own_group_alone(kind):
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(12, generator=generator)
    groups = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    together = group_advantages(rewards, groups, groups + 1, kind)
    for group in range(3):
        alone = group_advantages(rewards[groups == group], torch.zeros(4, dtype=torch.long), torch.ones(4), kind)
        torch.testing.assert_close(together[groups == group], alone, rtol=0, atol=1e-6)


def test_a_group_of_one_answer_is_refused_where_answers_are_compared():
    with pytest.raises(DataError, match="a group has one answer"):
        group_advantages(torch.ones(3), torch.tensor([0, 0, 1]), torch.ones(3), "rloo")
    group_advantages(torch.ones(3), torch.tensor([0, 0, 1]), torch.ones(3), "reinforce_plus")


@pytest.mark.parametrize(
    ("log_ratio", "values"), [(0.5, (0.5, 0.125, 0.106531)), (-0.5, (-0.5, 0.125, 0.148721)), (0, (0, 0, 0))]
)
def test_kl_estimators_at_a_point(log_ratio, values):
    found = [
        ESTIMATORS[name](torch.tensor(float(log_ratio), dtype=torch.float64)).item() for name in ("k1", "k2", "k3")
    ]
    assert found == pytest.approx(values, abs=5e-7)


@pytest.mark.parametrize(
    ("mu", "spread"),
    [(0.1, {"k1": 20.0, "k2": 1.4177, "k3": 1.4166}), (1.0, {"k1": 2.0, "k2": 1.7321, "k3": 1.6950})],
)
def test_kl_estimators_over_a_normal_distribution(mu, spread):
    """Samples of N(0, 1), the divergence from N(mu, 1) is mu^2 / 2. Integrals by the trapezoid rule on a grid, so no
    chance is involved: means and standard deviations to 4 digits as printed."""
    x = torch.linspace(-14, 14, 200_001, dtype=torch.float64)
    weights = (-(x**2) / 2).exp() / math.sqrt(2 * math.pi)
    log_ratio = mu**2 / 2 - mu * x  # log N(x; 0, 1) - log N(x; mu, 1)
    true = mu**2 / 2
    for name, expected in spread.items():
        values = ESTIMATORS[name](log_ratio)
        mean = torch.trapezoid(values * weights, x)
        deviation = (torch.trapezoid(values.square() * weights, x) - mean**2).sqrt()
        bias = mu**2 / 4 if name == "k2" else 0
        assert (mean / true).item() == pytest.approx(1 + bias, abs=1e-6)
        assert (deviation / true).item() == pytest.approx(expected, rel=5e-5)


def make_model(seed=0, dropout=0.0):
    return tiny.model(61, context=64, seed=seed, dropout=dropout)


def make_answers():
    generator = torch.Generator().manual_seed(3)
    return [
        ChatTokens(torch.randint(61, (p + a,), generator=generator).tolist(), [False] * p + [True] * a)
        for p, a in LENGTHS
    ]


def make_batch(chosen=range(6), *, old=0.3, reference=0.5, spread=True):
    """Answers as if drawn by another policy: all log-probabilities are the model's own with noise of each token's."""
    model, answers = make_model(), make_answers()
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.7, 0.0, 3.0])
    groups = torch.arange(6) // 2
    lengths = torch.tensor([a for _, a in LENGTHS])
    advantages = group_advantages(rewards, groups, lengths)
    noise = torch.randn(3, 25, generator=torch.Generator().manual_seed(5)).split(lengths.tolist(), dim=1)
    chosen = list(chosen)
    batch = pack(
        [answers[number] for number in chosen],
        GroupBatch,
        rewards=rewards[chosen],
        groups=groups[chosen],
        truncated=torch.tensor([False, True, False, False, True, False])[chosen],
        advantages=advantages[chosen],
        facts={"reward": 0.25},
    )
    own = answer_log_probs(model, batch)[0].detach()
    sampled, before, frozen = (batch.spread([noise[number][row] for number in chosen]) for row in range(3))
    return replace(
        batch,
        sampled_log_probs=own + old * before + 0.05 * sampled,
        old_log_probs=own + old * before,
        reference_log_probs=own + reference * frozen,
    )


FULL = {
    **{name: method.objective for name, method in METHODS.items()},
    "everything": GRPO("grpo", kl=0.1, entropy=0.05, correction=1.02, mask_truncated=True, temperature=0.8),
    "everything-by-tokens": GRPO("dapo", Cispo(0.1), kl=0.1, estimator="k2", entropy=0.05, mask_truncated=True),
    "everything-by-a-constant": GRPO("dr_grpo", Clip(0.2, 0.3), max_length=8, kl=0.1, estimator="k1", correction=2.0),
}


def gradient_of(objective, batches):
    """The engine's loss and gradient of a step of these micro-batches."""
    engine = Engine(make_model(), objective, AdamW.Config(), clip=None)
    total, _, weight, metrics = engine._gradients(batches)
    gradients = [gradient / weight for gradient in engine.weights.gradients]
    return total / weight, gradients, {name: value / weight for name, value in metrics.items()}


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("split", [[range(3), range(3, 6)], [[5, 0], [3], [1, 2, 4]], [[n] for n in range(6)]])
def test_a_step_does_not_depend_on_packing_companions_or_micro_batches(name, split):
    """float32 of losses to 10, sums in another order: 2e-5."""
    loss, gradients, _ = gradient_of(FULL[name], [make_batch()])
    other, others, _ = gradient_of(FULL[name], [make_batch(chosen) for chosen in split])
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=2e-5)
    largest = max(gradient.abs().max() for gradient in gradients)
    assert largest > 1e-3
    for mine, its in zip(gradients, others, strict=True):
        torch.testing.assert_close(its, mine, rtol=1e-4, atol=2e-5 * float(largest))


def plain_loss(settings, batch, log_probs, entropy):
    """The loss answer by answer and token by token, in Python, by the module's equations."""
    total, tokens = 0.0, 0
    for number in range(batch.answers):
        places = [place for place in range(len(batch.owner)) if batch.owner[place] == number]
        own = 0.0
        ratios = [(log_probs[p] - batch.old_log_probs[p]).exp() for p in places]
        mean = torch.stack(ratios).log().mean().exp()
        advantage = batch.advantages[number]
        if settings.mask_truncated and batch.truncated[number]:
            places = []
        for p, w in zip(places, ratios, strict=False):
            w = {"token": w, "sequence": mean, "product": mean ** len(ratios)}[settings.ratio]
            if isinstance(settings.surrogate, Clip):
                low, high = w.new_tensor([1 - settings.surrogate.low, 1 + settings.surrogate.high])
                loss = -min(w * advantage, min(max(w, low), high) * advantage)
            else:
                loss = -min(w.detach(), 1 + settings.surrogate.high) * advantage * log_probs[p]
            if settings.correction is not None:
                weight = (batch.old_log_probs[p] - batch.sampled_log_probs[p]).exp()
                loss = loss * min(weight, weight.new_tensor(settings.correction))
            d = log_probs[p] - batch.reference_log_probs[p]
            loss = loss + settings.kl * {"k1": d, "k2": d * d / 2, "k3": (-d).exp() - 1 + d}[settings.estimator]
            own = own + loss - settings.entropy * entropy[p]
        length = sum(batch.owner == number)
        tokens += len(places)
        total = total + (own / length if settings.reduction == "grpo" else own)
    divisor = {"grpo": batch.answers, "dr_grpo": batch.answers * (settings.max_length or 0)}
    return total / divisor.get(settings.reduction, tokens)


@pytest.mark.parametrize("name", sorted(FULL.keys() - {"sapo", "vespo"}))  # which trl alone is an oracle for
def test_the_loss_is_what_the_equations_say(name):
    """Oracle: loops over answers and tokens; float64, so 1e-10 is generous to sums of 25 terms."""
    objective, batch = FULL[name], make_batch()
    exact = ("advantages", "old_log_probs", "sampled_log_probs", "reference_log_probs")
    batch = replace(batch, **{name: getattr(batch, name).double() for name in exact})
    generator = torch.Generator().manual_seed(1)
    log_probs = (batch.old_log_probs + 0.3 * torch.randn(25, generator=generator)).requires_grad_()
    entropy = torch.rand(25, generator=generator).double().requires_grad_()
    loss = objective.loss(batch, log_probs, entropy)
    mine = loss.total / loss.weight
    expected = plain_loss(objective, batch, log_probs, entropy)
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-10)
    inputs = [log_probs, entropy] if objective.entropy else [log_probs]
    for one, other in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "value"),
    [(1.0, 1.0, -1.2), (1.0, -1.0, 2.718282), (-1.0, 1.0, -0.367879), (-1.0, -1.0, 0.8), (0.1, 1.0, -1.105171)],
)
def test_the_clipped_surrogate_of_the_literature(log_ratio, advantage, value):
    tokens = torch.tensor([log_ratio], dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    assert Clip()(*tokens, tokens[0]).item() == pytest.approx(value, abs=5e-7)
    assert Clip().cut(*tokens).item() == (value in (-1.2, 0.8))


def first_step(method, dropout=0.0):
    """A rollout of a tiny model's, and what the method makes of its first batch."""
    policy = tiny.model(TOKENIZER.vocab_size, context=80, dropout=dropout).train()
    items = [user(text) for text in ("the", "in an the", "盆景", " a")]
    loader = RolloutLoader.Config(prompts=4).build(
        items, policy, TOKENIZER, Rollouts(n=4, max_new_tokens=8), each(lambda item, text: float(len(text) % 3)),
        prompt=lambda item: item, finish=method.advantages, kind=GroupBatch,
        reference=tiny.model(TOKENIZER.vocab_size, context=80, dropout=dropout),
    )  # fmt: skip
    batch = next(loader)
    return batch, method.objective(policy, batch)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_at_the_first_step_the_grpo_loss_is_0_the_ratio_1_and_nothing_clipped(dropout):
    """Advantages add up to 0 in each group, so only float32's rounding of 16 numbers to 1.5 is left: 1e-6."""
    batch, loss = first_step(METHODS["grpo"], dropout)
    assert batch.advantages.abs().max() > 0.5
    assert loss.total.abs() < 1e-6
    for name in ("policy_kl", "clip_fraction", "reference_kl"):
        assert loss.metrics[name] == 0, name


def test_at_the_first_step_the_gradient_is_not_0():
    policy = tiny.model(TOKENIZER.vocab_size, context=80).train()
    batch, _ = first_step(METHODS["grpo"])
    METHODS["grpo"].objective(policy, batch).total.backward()
    assert policy.head.weight.grad.norm() > 1e-3


def test_at_the_first_step_the_dapo_loss_is_not_0_where_lengths_differ():
    """Its gradient is what counts: a longer answer's tokens together count more."""
    batch, loss = first_step(METHODS["dapo"])
    assert len(set(batch.lengths.tolist())) > 1
    assert loss.total.abs() > 1e-2


def test_without_old_log_probs_the_policy_is_its_own_old_one():
    """What a loader leaves out where each rollout is one step: the same loss and gradient as with them."""
    batch = replace(make_batch(), old_log_probs=None)
    own = answer_log_probs(make_model(), batch)[0].detach()
    one = gradient_of(METHODS["grpo"].objective, [batch])
    other = gradient_of(METHODS["grpo"].objective, [replace(batch, old_log_probs=own)])
    for mine, its in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-7)


def test_kl_in_the_reward_is_taken_from_each_answer_before_groups_are_compared():
    batch = make_batch()
    (shaped,) = Advantages("dr_grpo", kl=0.5, estimator="k2")([batch])
    divergence = batch.per_answer((batch.old_log_probs - batch.reference_log_probs).square() / 2)
    rewards = batch.rewards - 0.5 * divergence
    expected = rewards - rewards.unflatten(0, (3, 2)).mean(1).repeat_interleave(2)
    torch.testing.assert_close(shaped.advantages, expected, rtol=0, atol=1e-6)
    with pytest.raises(DataError, match="reference"):
        Advantages("grpo", kl=0.1)([replace(batch, reference_log_probs=None)])


def test_advantages_of_a_rollout_do_not_depend_on_its_parts():
    """Groups lie across two parts; the parts get what the whole gets."""
    (whole,) = Advantages("grpo")([make_batch()])
    one, other = Advantages("grpo")([make_batch(range(3)), make_batch(range(3, 6))])
    assert torch.equal(torch.cat([one.advantages, other.advantages]), whole.advantages)
    plain = RolloutBatch(**{name: getattr(whole, name) for name in RolloutBatch.__dataclass_fields__})
    (made,) = Advantages("grpo")([plain])
    assert type(made) is GroupBatch
    assert torch.equal(made.advantages, whole.advantages)


def test_answers_that_were_cut_teach_nothing_where_that_is_asked():
    objective = GRPO("dapo", mask_truncated=True)
    batch = make_batch()
    log_probs = batch.old_log_probs.clone().requires_grad_()
    loss = objective.loss(batch, log_probs, torch.zeros(25))
    (gradient,) = torch.autograd.grad(loss.total, [log_probs])
    cut = batch.truncated[batch.owner]
    assert cut.any()
    assert (gradient[cut] == 0).all()
    assert (gradient[~cut] != 0).all()
    assert loss.weight == int((~cut).sum())


def test_a_step_in_which_all_answers_were_cut_changes_nothing():
    """Where the mean is over answers; where it is over tokens, there are none, which is said."""
    batch = replace(make_batch(), truncated=torch.ones(6, dtype=torch.bool))
    loss, gradients, _ = gradient_of(GRPO("grpo", mask_truncated=True), [batch])
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients)
    with pytest.raises(TrainingError, match="nothing in the batch counts"):
        gradient_of(GRPO("dapo", mask_truncated=True), [batch])


def test_metrics_are_means_over_tokens_and_facts_of_the_rollout():
    batch = make_batch()
    log_probs = batch.old_log_probs + 0.1
    loss = GRPO("grpo").loss(batch, log_probs, torch.full((25,), 2.0))
    metrics = {name: value / loss.weight for name, value in loss.metrics.items()}
    assert metrics["entropy"] == pytest.approx(2)
    assert metrics["policy_kl"] == pytest.approx(math.exp(0.1) - 1 - 0.1, rel=1e-4)
    assert metrics["clip_fraction"] == 0
    assert metrics["reward"] == 0.25
    drift = log_probs - batch.reference_log_probs
    assert metrics["reference_kl"] == pytest.approx(((-drift).exp() - 1 + drift).mean().item(), rel=1e-5)
    far = GRPO("grpo").loss(batch, batch.old_log_probs + 0.5, torch.zeros(25))
    expected = (batch.advantages[batch.owner] > 0).float().mean().item()
    assert far.metrics["clip_fraction"] / far.weight == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"reduction": "dr_grpo"}, "give max_length"),
        ({"kl": -0.1}, "kl is -0.1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"correction": 0}, "correction is 0"),
    ],
)
def test_refuses_settings_that_cannot_be(settings, what):
    with pytest.raises(ConfigError, match=what):
        GRPO(**settings)


@pytest.mark.parametrize("make", [lambda: Clip(1.5), lambda: Clip(0.2, -1), lambda: Cispo(-1), lambda: Sapo(0.0)])
def test_refuses_bounds_that_cannot_be(make):
    with pytest.raises(ConfigError):
        make()


def test_a_kl_term_without_a_reference_is_refused():
    with pytest.raises(DataError, match="give the loader one"):
        GRPO(kl=0.1).loss(replace(make_batch(), reference_log_probs=None), torch.zeros(25), torch.zeros(25))


def test_weights_of_vespo_fall_on_both_sides():
    """phi(1) is 1, and less at any other ratio where k equals l."""
    vespo = Vespo(positive=(2.0, 2.0))
    log_ratio = torch.tensor([-1.0, 0.0, 1.0])
    losses = vespo(log_ratio, torch.ones(3), torch.full((3,), -1.0))
    assert losses[1] == pytest.approx(1)
    assert losses[0] < 1 > losses[2]
