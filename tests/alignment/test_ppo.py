"""PPO's losses by hand and by formula, its first batch, what it must not depend on, and runs that resume."""

import copy
from dataclasses import replace

import pytest
import torch

from penjing.alignment.batch import pack
from penjing.alignment.gae import AdaptiveKL, FixedKL
from penjing.alignment.ppo import (
    PPO,
    ActorCritic,
    Experience,
    PPOBatch,
    PPOLoader,
    RewardJudge,
    frozen_values,
    mean_divergence,
    policy_losses,
    value_losses,
)
from penjing.alignment.ppo_optimizer import PPOOptimizer, averaged_policy
from penjing.alignment.reward_model import rewards_of
from penjing.alignment.rewards import Task
from penjing.alignment.rollout_loader import RolloutLoader
from penjing.alignment.rollouts import Rollouts
from penjing.errors import CheckpointError, ConfigError, DataError
from penjing.models.folder import load_model
from penjing.models.scored import ScoredModel
from penjing.models.scored_folder import load_scored
from penjing.stages.settings import Model
from penjing.tokenizer import Tokenizer
from penjing.tokenizer.chat import ChatTokens
from penjing.training.budget import Budget
from penjing.training.engine import Engine
from penjing.training.objectives import next_token
from penjing.training.schedules import Constant
from penjing.training.trainer import Trainer
from tests.data.conftest import BYTES
from tests.training.tiny import CountingLoader

TOKENIZER = Tokenizer.around(BYTES)
ITEMS = [Task(({"role": "user", "content": f"Say {number}."},)) for number in range(6)]


def make_policy():
    model = Model(width=16, layers=2, heads=2, context=64).config(TOKENIZER.vocab_size).build()
    model.initialise(torch.Generator().manual_seed(0))
    return model.eval()


def make_judge():
    model = ScoredModel.of(make_policy())
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    return model


def make_model():
    return ActorCritic(make_policy(), make_judge())


def make_loader(model, *, parts=3, epochs=1, prompts=3, pretraining=None, kl=None, experience=None, **more):
    reference = make_policy()
    with torch.no_grad():  # so that the divergence is not 0
        reference.embedding.weight.add_(0.02 * torch.randn(reference.embedding.weight.shape))
    return PPOLoader(
        RolloutLoader.Config(prompts=prompts, parts=parts, epochs=epochs, seed=1),
        ITEMS,
        model,
        TOKENIZER,
        Rollouts(n=2, max_new_tokens=6),
        RewardJudge(make_judge(), missing_end=0.5),
        reference=reference,
        kl=kl or FixedKL(0.1),
        experience=experience,
        pretraining=pretraining,
        **more,
    )


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 1.0, -1.2, True),
        (1.0, -1.0, 2.718282, False),
        (-1.0, 1.0, -0.367879, False),
        (-1.0, -1.0, 0.8, True),
        (0.1, 1.0, -1.105171, False),
        (0.0, 1.0, -1.0, False),
    ],
)
def test_clipping_of_the_policy(log_ratio, advantage, loss, clipped):
    found, bound = policy_losses(torch.tensor([log_ratio]), torch.tensor([advantage]), 0.2)
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert bound.item() == clipped


def test_a_clipped_token_has_no_gradient_and_others_have_the_policy_gradient():
    ratios = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
    policy_losses(ratios, torch.tensor([1.0, -1.0, 2.0]), 0.2)[0].sum().backward()
    torch.testing.assert_close(ratios.grad, torch.tensor([0.0, 2.718282, -2.0]), rtol=0, atol=1e-6)


def test_clipping_of_the_value():
    """Old value 1, clip .2: within it 1/2 (v - R)^2; beyond it what is worse of the two."""
    values, old, returns = torch.tensor([1.1, 2.0, 2.0, 0.0]), torch.ones(4), torch.tensor([2.0, 2.0, 0.0, 0.9])
    found, clipped = value_losses(values, old, returns, 0.2)
    torch.testing.assert_close(found, torch.tensor([0.405, 0.32, 2.0, 0.405]))
    assert clipped.tolist() == [False, True, False, False]


def test_on_the_first_batch_the_ratio_is_1_and_nothing_is_clipped():
    """Exactly, for the loader's old log-probabilities are those of the training pass itself."""
    model = make_model()
    batch = next(make_loader(model))
    loss = PPO()(model.train(), batch)
    assert loss.metrics["ratio"] == loss.weight
    assert loss.metrics["approximate_kl"] == 0
    assert loss.metrics["clip_fraction"] == 0
    assert loss.metrics["value_clip_fraction"] == 0


def test_the_divergence_of_a_policy_that_is_its_reference_is_exactly_0():
    model = make_model()
    loader = make_loader(model)
    loader.reference = copy.deepcopy(model.policy)
    batch = next(loader)
    assert PPO()(model, batch).metrics["kl"] == 0
    assert batch.facts["rollout_kl"] == 0


@pytest.mark.parametrize("whiten", [False, True])
def test_advantages_and_returns_equal_a_computation_answer_by_answer(whiten):
    """Oracle: each answer's tokens by themselves, in plain Python, from the batch's own log-probabilities; 1e-4."""
    model = make_model()
    loader = make_loader(model, experience=Experience(0.9, 0.8, whiten_rewards=whiten))
    batches = [next(loader) for _ in range(3)]
    rows = []
    for batch in batches:
        values = frozen_values(model.value, batch)
        torch.testing.assert_close(values, batch.values)
        ratio = batch.old_log_probs - batch.reference_log_probs
        for answer in range(batch.answers):
            own = batch.owner == answer
            rewards = (-0.1 * ratio[own]).tolist()
            rewards[-1] += batch.rewards[answer].item()
            rows.append((rewards, values[own].tolist(), batch.advantages[own], batch.returns[own]))
    if whiten:
        every = torch.tensor([reward for row in rows for reward in row[0]])
        scale = every.var(correction=0).add(1e-8).rsqrt().item()
        mean = every.mean().item()
        rows = [([(r - mean) * scale + mean for r in rewards], *rest) for rewards, *rest in rows]
    plain = []
    for rewards, values, _, returns in rows:
        following, after, found = 0.0, 0.0, []
        for reward, value in zip(reversed(rewards), reversed(values), strict=True):
            following = reward + 0.9 * after - value + 0.9 * 0.8 * following
            found.append(following)
            after = value
        plain.append(found[::-1])
        expected = torch.tensor(plain[-1]) + torch.tensor(values)
        torch.testing.assert_close(returns, expected, rtol=0, atol=1e-4)
    every = torch.tensor([number for found in plain for number in found])
    white = (every - every.mean()) * every.var(correction=0).add(1e-8).rsqrt()
    torch.testing.assert_close(torch.cat([row[2] for row in rows]), white, rtol=0, atol=1e-4)


def test_rewards_are_scores_less_the_offset_less_a_penalty_for_answers_that_do_not_end():
    model = make_judge()
    model.offset = 0.25
    loader = make_loader(make_model())
    loader._judge = RewardJudge(model, scale=2.0, missing_end=0.5)
    batches = [next(loader) for _ in range(3)]
    answers = [answer for _, group in loader.last for answer in group]
    plain = 2 * rewards_of(model, [answer.tokens for answer in answers])
    cut = torch.tensor([answer.truncated for answer in answers]).float()
    assert cut.any()
    torch.testing.assert_close(torch.cat([batch.rewards for batch in batches]), plain - 0.5 * cut)


def merged(batches):
    """The answers of several batches, unpacked, packed again as one: other rows, other companions."""
    answers, per_token, per_answer = [], {}, {}
    names = ("sampled_log_probs", "old_log_probs", "reference_log_probs", "values", "advantages", "returns")
    for batch in batches:
        tokens, rows = batch.tokens, batch.tokens.shape[1]
        for answer in range(batch.answers):
            places = batch.counted[batch.owner == answer]
            row, first = int(places[0]) // rows, int(places[0]) % rows
            positions = batch.positions[row] if batch.positions is not None else torch.arange(rows)
            start = first - int(positions[first])
            end = int(places[-1]) % rows
            ids = [*tokens[row, start : end + 1].tolist(), int(batch.targets[row, end])]
            mask = [False, *batch.mask[row, start : end + 1].tolist()]
            answers.append(ChatTokens(ids, mask))
            for name in names:
                per_token.setdefault(name, []).append(getattr(batch, name)[batch.owner == answer])
            per_answer.setdefault("rewards", []).append(batch.rewards[answer])
    made = pack(answers, PPOBatch, rewards=torch.stack(per_answer["rewards"]))
    return replace(made, **{name: made.spread(values) for name, values in per_token.items()})


def moved_model():
    """Away from the policy that drew, so that ratios are not 1 and some are clipped."""
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return model


def test_a_step_is_the_same_however_answers_are_packed_and_batches_divided():
    """Three batches whose gradients are added up, and their answers packed anew as one: loss 1e-4, weights 1e-5."""
    loader = make_loader(make_model())
    batches = [next(loader) for _ in range(3)]
    assert merged(batches).answers == 6
    stepped = []
    for split in (batches, [merged(batches)]):
        model = moved_model()
        config = PPOOptimizer.Config(learning_rate=1e-3)
        outcome = Engine(model, PPO(), config, clip=None).step(split)
        stepped.append((outcome, [p.detach().clone() for p in model.parameters()]))
    (first, weights), (second, others) = stepped
    assert first.metrics["clip_fraction"] > 0
    assert first.read()[0] == pytest.approx(second.read()[0], abs=1e-4)
    assert first.read()[1] == pytest.approx(second.read()[1], rel=1e-3)
    for name in ("policy_loss", "value_loss", "clip_fraction", "ratio", "entropy"):
        assert first.metrics[name] == pytest.approx(second.metrics[name], abs=1e-4)
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-4)


def test_the_loss_equals_the_formula_and_the_two_networks_do_not_touch_each_other():
    """Autograd through log_softmax, clamp and max as the papers write them; 1e-4 of a gradient near 1."""
    batch = next(make_loader(make_model(), parts=1))
    model = moved_model()
    objective = PPO(clip=0.1, value_clip=0.05, value_weight=0.3)
    loss = objective(model, batch)
    (loss.total / loss.weight).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    where = batch.counted
    logits = model.policy(batch.tokens, batch.positions, batch.documents).flatten(0, 1)[where]
    log_probs = logits.log_softmax(-1).gather(1, batch.targets.flatten()[where, None]).squeeze(1)
    ratio, a = (log_probs - batch.old_log_probs).exp(), batch.advantages
    policy = torch.max(-a * ratio, -a * ratio.clamp(0.9, 1.1)).mean()
    value = model.value(batch.tokens, batch.positions, batch.documents).flatten()[where]
    near = batch.values + (value - batch.values).clamp(-0.05, 0.05)
    expected = policy + 0.3 * 0.5 * torch.max((value - batch.returns) ** 2, (near - batch.returns) ** 2).mean()
    expected.backward()
    torch.testing.assert_close(loss.total / loss.weight, expected, rtol=0, atol=1e-5)
    for name, parameter in model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[name], grad, rtol=1e-3, atol=1e-4)


def test_pretraining_adds_its_gradient_times_the_coefficient():
    """PPO-ptx: the gradient of the mixed loss is that of PPO plus 27.8 times that of the text's mean loss; 1e-3."""
    loader = make_loader(make_model(), parts=1, pretraining=CountingLoader())
    batch = next(loader)
    assert batch.pretraining is not None
    text = CountingLoader().__next__()
    assert torch.equal(batch.pretraining.tokens, text.tokens)
    found = []
    for objective in (PPO(pretraining=27.8), PPO()):
        model = moved_model()
        loss = objective(model, batch)
        (loss.total / loss.weight).backward()
        found.append([p.grad.clone() for p in model.policy.parameters()])
    model = moved_model()
    own = next_token(model.policy, text)
    (own.total / own.weight).backward()
    for mixed, alone, parameter in zip(*found, model.policy.parameters(), strict=True):
        torch.testing.assert_close(mixed, alone + 27.8 * parameter.grad, rtol=1e-3, atol=1e-3)
    with pytest.raises(DataError, match="the loader has none"):
        PPO(pretraining=1.0)(model, replace(batch, pretraining=None))


def test_the_coefficient_follows_the_divergence_of_each_rollout():
    kl = AdaptiveKL(0.1, target=1e-6, horizon=60)
    loader = make_loader(make_model(), kl=kl)
    first = [next(loader) for _ in range(3)]
    divergence = mean_divergence(first)
    assert first[0].facts["kl_coefficient"] == 0.1
    assert first[0].facts["rollout_kl"] == pytest.approx(divergence)
    assert next(loader).facts["kl_coefficient"] == pytest.approx(kl.next(0.1, divergence, 6))


def run(out, steps, *, interrupt=None):
    torch.manual_seed(7)
    model = make_model()
    loader = make_loader(model, epochs=2, kl=AdaptiveKL(0.1, target=1e-6, horizon=60), pretraining=CountingLoader())
    objective, calls = PPO(pretraining=0.1), [0]

    def counted(model, batch):
        calls[0] += 1
        if calls[0] == interrupt:
            raise KeyboardInterrupt
        return objective(model, batch)

    config = Trainer.Config(
        budget=Budget(steps=steps),
        optimizer=PPOOptimizer.Config(learning_rate=3e-3, value_learning_rate=1e-3, average=0.9),
        schedule=Constant(),
        precision="fp32",
        device="cpu",
        display="quiet",
        checkpoint_every=4,
    )
    result = config.build(model, counted, loader, out, tokenizer=TOKENIZER).run()
    return model, result


def test_a_run_that_is_killed_amid_a_rollout_goes_on_bit_for_bit(tmp_path):
    """8 steps over rollouts of 6; the checkpoint of step 4 is amid the second epoch of the first one."""
    whole, result = run(tmp_path / "whole", 8)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", 8, interrupt=7)
    parts, other = run(tmp_path / "parts", 8)
    for (name, weight), (_, again) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        assert torch.equal(weight, again), name
    ids = torch.arange(20)[None]
    averages = [averaged_policy(one.checkpoint, whole.policy) for one in (result, other)]
    assert torch.equal(averages[0](ids), averages[1](ids))
    assert not torch.equal(averages[0](ids), whole.policy(ids))
    assert torch.equal(load_model(tmp_path / "whole" / "model")(ids), whole.policy(ids))
    assert torch.equal(load_scored(tmp_path / "whole" / "model" / "value")(ids), whole.value(ids))


def test_the_average_of_the_policy_is_the_running_mean_of_its_weights():
    """Three steps with decay .9, from the weights before the first: by the recurrence, 1e-6. Rates are apart."""
    model = make_model()
    batch = next(make_loader(model))
    engine = Engine(model, PPO(), PPOOptimizer.Config(learning_rate=1e-2, value_learning_rate=0.0, average=0.9))
    expected = model.policy.norm.weight.detach().clone()
    value = model.value.norm.weight.detach().clone()
    for _ in range(3):
        engine.step([batch])
        expected = 0.9 * expected + 0.1 * model.policy.norm.weight.detach()
    average = engine.optimizer.state[model.policy.norm.weight]["average"]
    torch.testing.assert_close(average, expected, rtol=0, atol=1e-6)
    assert torch.equal(model.value.norm.weight, value)
    assert "average" not in engine.optimizer.state[model.value.norm.weight]


def test_refuses_settings_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="clip is -1"):
        PPO(clip=-1)
    with pytest.raises(ConfigError, match="gamma is 2"):
        Experience(gamma=2)
    with pytest.raises(ConfigError, match="average is 1"):
        PPOOptimizer.Config(average=1.0)
    model = make_model()
    loader = make_loader(model)
    state = make_loader(model, pretraining=CountingLoader()).state_dict()
    with pytest.raises(DataError, match="pretraining text was added or left out"):
        loader.load_state_dict(state)
    config = Trainer.Config(
        budget=Budget(steps=1), device="cpu", display="quiet", precision="fp32", optimizer=PPOOptimizer.Config()
    )
    found = config.build(model, PPO(), loader, tmp_path).run()
    with pytest.raises(CheckpointError, match="no averaged weights"):
        averaged_policy(found.checkpoint, model.policy)
