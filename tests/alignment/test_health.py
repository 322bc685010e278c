"""Rules of health, each tested by a run of a tiny model that is made to break it, and by one that is not."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.grpo import GRPO, Advantages, GroupBatch, methods
from penjing.alignment.health import (
    RULES,
    Drift,
    EntropyCollapse,
    Health,
    LargeSteps,
    LengthRunaway,
    Mismatch,
    NoSignal,
    RewardHacking,
    name_of,
    plot_health,
)
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.rollout_loader import RolloutLoader, each
from penjing.alignment.rollouts import Rollouts
from penjing.errors import TrainingError
from penjing.tokenizer.chat import ChatTokens
from penjing.training.adamw import AdamW
from penjing.training.budget import Budget
from penjing.training.metrics import read_metrics
from penjing.training.schedules import Constant
from penjing.training.trainer import Trainer
from tests.inference import tiny
from tests.inference.test_chat import TOKENIZER, user

ITEMS = [user(text) for text in ("the", "in an the", "盆景", " a", "User", "he he", "an")]
PLAIN = methods(8)["grpo"].objective


def vowels(item, text):
    return float(text.count("e"))


@pytest.fixture(autouse=True)
def _no_pictures_of_losses(monkeypatch):
    """They take a second of each run."""
    monkeypatch.setattr("penjing.training.trainer.plot_run", lambda folder: [])


def make_policy(seed=0):
    return tiny.model(TOKENIZER.vocab_size, context=80, seed=seed)


def run(out, rules, *, steps, rate=0.0, reward=vowels, objective=PLAIN, policy=None, reference=None, length=6,
        watch=None, config=None, checkpoint_every=None):  # fmt: skip
    """A run of some steps; what was said in it."""
    policy = policy or make_policy()
    loader = RolloutLoader.Config(**{"prompts": 2, **(config or {})}).build(
        ITEMS, policy, TOKENIZER, Rollouts(n=4, max_new_tokens=length), each(reward), prompt=lambda item: item,
        finish=Advantages("grpo"), kind=GroupBatch, reference=reference, watch=watch,
    )  # fmt: skip
    said = io.StringIO()
    Trainer.Config(
        Budget(steps=steps), AdamW.Config(learning_rate=rate, weight_decay=0.0), schedule=Constant(warmup=0.0),
        precision="fp32", display="lines", checkpoint_every=checkpoint_every,
    ).build(
        policy, objective, loader, out, console=Console(file=said, width=1000),
        watch=rules if isinstance(rules, Health) else Health(rules),
    ).run()  # fmt: skip
    return said.getvalue()


def test_a_run_in_which_nothing_is_wrong_is_left_alone(tmp_path):
    said = run(tmp_path, [replace(rule, window=3) for rule in RULES if not isinstance(rule, LengthRunaway)], steps=7,
               rate=1e-4, reference=make_policy(), reward=lambda item, text: float(len(text)))  # fmt: skip
    assert "trained 7 steps" in said
    assert not any(word in said for word in ("no gradient", "entropy has", "from the reference", "too large", "hacked"))


def test_groups_of_equal_rewards_have_no_gradient(tmp_path):
    said = run(tmp_path, [NoSignal(window=3)], steps=6, rate=0.01, reward=lambda item, text: 1.0)
    assert said.count("every group has equal rewards: no gradient") == 1
    assert "step 3: every group" in said
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert all(line["without_signal"] == 1 and line["grad_norm"] == 0 for line in lines if "loss" in line)


def test_entropy_that_collapses(tmp_path):
    said = run(tmp_path, [EntropyCollapse(window=3, least=0.5)], steps=14, rate=0.02, objective=GRPO(entropy=-5.0))
    assert "the entropy has fallen from" in said


def test_a_policy_that_leaves_the_reference(tmp_path):
    said = run(tmp_path, [Drift(window=2, most=0.3)], steps=10, rate=0.03, reference=make_policy())
    assert "nats a token from the reference, and the bound is 0.3" in said


def test_steps_that_are_too_large(tmp_path):
    """Four steps on each rollout: from the second on, ratios are no longer 1."""
    said = run(tmp_path, [LargeSteps(window=3, most=0.1)], steps=4, rate=0.1, config={"epochs": 4},
               reward=lambda item, text: float(len(text)))  # fmt: skip
    assert "of tokens are beyond the bounds of the ratio: steps are too large" in said


def short_answers():
    """A policy that has learned to end its answer after one token."""
    policy = make_policy()
    end = TOKENIZER.end_of_turn_id
    conversations = []
    for item in ITEMS:
        prompt = TOKENIZER.chat.render(item, add_generation_prompt=True).ids
        conversations.append(ChatTokens([*prompt, 97, end], [False] * len(prompt) + [True, True]))
    batch = pack(conversations, AnswerBatch)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        (-answer_log_probs(policy, batch)[0].mean()).backward()
        optimizer.step()
    return policy


def test_answers_that_grow_and_grow(tmp_path):
    said = run(
        tmp_path, [LengthRunaway(window=2, most=2.0, truncated=1.0)], steps=12, rate=0.03, length=24,
        reward=lambda item, text: float(len(text)), policy=short_answers(),
    )  # fmt: skip
    assert "length runs away" in said


def test_answers_that_are_cut(tmp_path):
    said = run(tmp_path, [LengthRunaway(window=3)], steps=4)
    assert "of answers are cut where their tokens run out" in said


def test_a_reward_that_rises_while_what_it_stands_for_falls(tmp_path):
    """The reward counts letters that the checked reward does not want."""
    said = run(
        tmp_path, [RewardHacking(window=2, rise=0.1, fall=0.1)], steps=10, rate=0.03,
        watch={"checked": each(lambda item, text: -vowels(item, text))},
    )  # fmt: skip
    assert "the reward is being hacked" in said


def test_answers_of_another_policy(tmp_path):
    said = run(tmp_path, [Mismatch(window=2)], steps=8, rate=0.03, config={"lag": 3})
    assert "answers are of another policy" in said


def test_a_rule_that_stops_ends_the_run_with_what_it_found(tmp_path):
    """What was saved before is there; steps are as many as it took."""
    with pytest.raises(TrainingError, match="step 3: every group has equal rewards: no gradient"):
        run(tmp_path, [NoSignal(window=3, stops=True)], steps=9, reward=lambda item, text: 1.0, checkpoint_every=1)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
    assert (tmp_path / "checkpoints").is_dir()


def line(step, **metrics):
    return {"step": step, "loss": 0.0, "reward": 0.5, **metrics}


def test_a_sickness_is_said_when_it_begins_and_when_it_begins_anew():
    health = Health([NoSignal(window=2)])
    shares = [1, 1, 1, 0, 1, 1, 1]
    assert [len(health(line(n, without_signal=share))) for n, share in enumerate(shares, 1)] == [0, 1, 0, 0, 0, 1, 0]


def test_a_resumed_run_knows_how_it_began(tmp_path):
    """Steps that are done again after a resume count once."""
    path = tmp_path / "metrics.jsonl"
    lines = [line(n, entropy=1.0) for n in range(1, 5)] + [{"step": 4, "validation": {"accuracy": 0.5}}]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    health = Health.of(tmp_path, [EntropyCollapse(window=2, least=0.5)])
    assert health(line(3, entropy=0.1)) == []
    assert health(line(4, entropy=0.1)) == ["step 4: " + EntropyCollapse(window=2, least=0.5)(
        [line(1, entropy=1.0), line(2, entropy=1.0), line(3, entropy=0.1), line(4, entropy=0.1)])]  # fmt: skip


def test_rules_wait_for_enough_steps_and_for_what_is_measured():
    for rule in RULES:
        assert rule([]) is None
        assert rule([line(n) for n in range(50)]) is None


def test_rules_have_names_for_recipes():
    assert [name_of(rule) for rule in RULES] == [
        "no_signal", "entropy_collapse", "drift", "large_steps", "length_runaway", "reward_hacking", "mismatch",
    ]  # fmt: skip


def test_pictures_are_drawn_of_what_was_measured(tmp_path):
    run(tmp_path, [], steps=3, reference=make_policy())
    paths = plot_health(tmp_path)
    assert {path.name for path in paths} == {"reward.png", "kl.png", "entropy.png", "answer_length.png", "shares.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert plot_health(tmp_path / "checkpoints") == []
