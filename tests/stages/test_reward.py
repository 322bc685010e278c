"""The stages of RLHF on models of a few bytes: what they read, make, keep and refuse."""

import json
import math
from dataclasses import dataclass

import pytest
import torch

import penjing
from penjing.alignment import sampled
from penjing.alignment.pairs import Pair
from penjing.alignment.ppo import RewardJudge
from penjing.alignment.ranked import answerable, of_pairs, of_sampled, read_sampled, write_sampled
from penjing.alignment.rewards import Task
from penjing.alignment.sampled import Sampled
from penjing.data import shards
from penjing.errors import ConfigError, DataError, TrainingError
from penjing.models.scored_folder import load_scored
from penjing.stages import KINDS, ppo
from penjing.stages.data import Shards
from penjing.stages.ppo import PPOStage
from penjing.stages.reward import Reward, held_out_accuracy
from penjing.stages.settings import Training
from penjing.tokenizer.chat import ChatTokens
from penjing.training.metrics import read_metrics
from tests.stages.test_stages import TOKENIZER, save_model, workshop

STEPS = Training(steps=3, batch=4, optimizer="adamw", learning_rate=0.01, precision="fp32", validate_every=1)


def write_pairs(path, count=12):
    records = [{"prompt": f"{n // 2}?", "chosen": f"yes {n}", "rejected": "no"} for n in range(count)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@dataclass(frozen=True)
class Question:
    """What the stages need of an item of the world."""

    prompt: tuple
    messages: tuple


def short_items(count, **_):
    asked = [({"role": "user", "content": f"Say {number}."},) for number in range(count)]
    return [Question(prompt, (*prompt, {"role": "assistant", "content": "aaa"})) for prompt in asked]


def made_up(model, tokenizer, prompts, score, *, rollouts, seed, progress):
    """Answers of 1, 2, ... characters: a model of random weights would not end any."""
    answers = [({"role": "assistant", "content": "a" * (1 + number)},) for number in range(rollouts.n)]
    return [
        Sampled(tuple(prompt), tuple(answers), tuple(float(score(number, one)) for one in range(rollouts.n)))
        for number, prompt in enumerate(prompts)
    ]


@pytest.fixture
def easy_world(monkeypatch):
    """Questions of a few bytes, and answers that are right where they have an odd number of characters."""
    monkeypatch.setattr(sampled, "world_items", short_items)
    monkeypatch.setattr(sampled, "sample", made_up)
    monkeypatch.setattr(sampled, "checked", lambda items: lambda number, answer: 1.0 - answer % 2)
    monkeypatch.setattr("penjing.alignment.rewards.check", lambda item, answer: len(answer) % 2 == 1)


def make_reward(tmp_path, **settings):
    base = tmp_path / "base"
    if not base.exists():
        save_model(base)
    stage = Reward(**{"model": str(base), "training": STEPS, "validation": 4, **settings})
    stage.check()
    place = workshop(tmp_path, {"reward": stage}, "reward")
    return place.folder, stage.run(place)


def test_a_file_of_pairs_becomes_a_reward_model_with_its_calibration(tmp_path):
    """Its first loss is ln 2, for every answer begins with the score 0; held-out prompts share no pair with learned."""
    folder, result = make_reward(tmp_path, data=write_pairs(tmp_path / "pairs.jsonl"), validation=3)
    steps = [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert {"accuracy", "margin", "score", "score_spread"} <= set(steps[0])
    assert (result["prompts"], result["pairs"], result["steps"]) == (8, 8, 3)
    assert result["left_out"] == {"equal": 0, "empty": 0, "too_long": 0}
    assert result["held_out"]["pairs"] == result["held_out"]["prompts"] == 4
    assert result["held_out"]["accuracy"] == 1.0  # a longer answer is the better one
    assert all((folder / f"{name}.png").is_file() for name in ("calibration", "accuracy", "margin"))
    model = load_scored(folder / "model")
    assert model.offset == result["offset"] != 0


def test_without_a_file_the_model_s_own_answers_are_compared(tmp_path, easy_world):
    """Right ones with wrong ones, all pairs of a prompt; the answers are kept, and drawn once."""
    settings = {"questions": 6, "answers": 4, "validation": 5}
    folder, result = make_reward(tmp_path, **settings)
    drawn = read_sampled(folder / "answers.jsonl")
    assert len(drawn) == 6
    assert result["right"] == 0.5
    assert (result["prompts"], result["pairs"]) == (6, 24)
    assert len(read_sampled(folder / "held_out.jsonl")) == 5


def test_another_model_s_answers_may_be_judged(tmp_path, easy_world, monkeypatch):
    """A reward model may stand on a better model than the policy whose answers it is to judge."""
    asked = []
    monkeypatch.setattr(
        sampled, "sample", lambda model, *rest, **how: asked.append(model) or made_up(model, *rest, **how)
    )
    save_model(tmp_path / "policy", seed=7)
    make_reward(tmp_path, questions=2, answers=2, validation=2, answered_by=str(tmp_path / "policy"))
    policy, base = (penjing.load(tmp_path / name)[0].embedding.weight for name in ("policy", "base"))
    assert not torch.equal(policy, base)
    assert [torch.equal(model.embedding.weight, policy) for model in asked] == [True, True]


def test_answers_come_back_from_their_file_and_those_that_say_the_same_are_one(tmp_path):
    yes, no = ({"role": "assistant", "content": "yes"},), ({"role": "assistant", "content": "no"},)
    prompt = ({"role": "user", "content": "Is it?"},)
    given = [
        Sampled(prompt, (yes, no, yes, no, no), (1.0, 0.0, 1.0, 0.0, 0.0)),
        Sampled(prompt, (yes, yes), (1.0, 1.0)),
    ]
    write_sampled(tmp_path / "answers.jsonl", given)
    assert read_sampled(tmp_path / "answers.jsonl") == given
    first, second = of_sampled(given, TOKENIZER, 64)
    assert first.ranks == (1.0, 0.0)
    assert first.answers[0].ids == TOKENIZER.chat.render([*prompt, *yes]).ids
    assert second is None
    assert of_sampled(given[:1], TOKENIZER, 20) == [None]  # longer than a row
    (tmp_path / "answers.jsonl").write_text('{"prompt": [], "answers": [[]], "scores": []}\n')
    with pytest.raises(DataError, match="a score for each"):
        read_sampled(tmp_path / "answers.jsonl")


def test_margins_are_taken_from_the_data_only_where_asked():
    pair = Pair(ChatTokens([1, 2], [False, True]), ChatTokens([1, 3], [False, True]), margin=2.5)
    assert of_pairs([pair])[0].margin == 0
    assert of_pairs([pair], margins=True)[0].margin == 2.5
    assert of_pairs([pair])[0].pairs == [(0, 1)]


def test_prompts_that_leave_no_room_for_an_answer_are_left_out():
    items = [Task(({"role": "user", "content": "a" * length},)) for length in (5, 50)]
    assert answerable(items, TOKENIZER, 64, 8) == items[:1]


def test_the_interval_of_pairs_is_that_of_as_many_items_as_prompts():
    """8 of 10 pairs right, one pair of equal scores among the rest: 0.85; 5 prompts, so Wilson's interval of 4 of 5."""
    found = held_out_accuracy([1.0] * 8 + [0.0, -1.0], 5)
    assert found["accuracy"] == pytest.approx(0.85)
    assert found["interval"] == pytest.approx([0.3755, 0.9638], abs=1e-3)


PPO_SETTINGS = {
    "prompts": 4,
    "answers": 2,
    "parts": 2,
    "questions": 8,
    "validation": 3,
    "max_new_tokens": 5,
    "training": Training(
        steps=3, optimizer="adamw", learning_rate=0.001, schedule="constant", precision="fp32", validate_every=2
    ),
}


def make_ppo(tmp_path, stages, **settings):
    stage = PPOStage(**{**PPO_SETTINGS, **settings})
    stage.check()
    place = workshop(tmp_path, {**stages, "ppo": stage}, "ppo")
    return place.folder, stage.run(place)


@pytest.fixture
def scored(tmp_path):
    """A chat model, and a reward model that was made of it."""
    save_model(tmp_path / "base")
    folder, _ = make_reward(tmp_path, data=write_pairs(tmp_path / "pairs.jsonl"), validation=3)
    return {"model": str(tmp_path / "base"), "reward": str(folder / "model")}


def test_a_chat_model_and_a_reward_model_become_a_policy(tmp_path, scored, easy_world):
    """Everything is measured before and after, curves are drawn, the value network and the average lie beside it."""
    folder, result = make_ppo(tmp_path, {}, **scored, average=0.9)
    steps = [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    assert (result["steps"], result["questions"]) == (3, 8)
    assert steps[0]["ratio"] == pytest.approx(1, abs=1e-6)
    assert steps[0]["clip_fraction"] == 0
    assert {"reward", "checked", "kl", "entropy", "answer_length", "kl_coefficient", "truncated"} <= set(steps[0])
    assert result["before"]["kl"] == 0
    assert result["after"]["kl"] > 0
    assert set(result["after"]) == {"checked", "learned", "kl", "length"}
    for name in ("reward", "kl", "entropy", "answer_length", "shares", "value_loss"):
        assert (folder / f"{name}.png").is_file()
    policy, _ = penjing.load(folder / "model")
    average, _ = penjing.load(folder / "average")
    ids = torch.arange(10)[None]
    assert not torch.equal(policy(ids), average(ids))
    assert load_scored(folder / "model" / "value")(ids).shape == (1, 10, 1)


def test_pretraining_text_is_that_of_the_shards_stage(tmp_path, scored, easy_world):
    (tmp_path / "shards").mkdir()
    shards.write(["some text of ours " * 20] * 5, TOKENIZER, tmp_path / "shards" / "train")
    folder, _ = make_ppo(tmp_path, {"shards": Shards()}, **scored, pretraining=1.0, pretraining_rows=2)
    steps = [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    assert steps[0]["pretraining_loss"] == pytest.approx(math.log(TOKENIZER.vocab_size), abs=0.5)


def test_a_run_ends_where_a_rule_of_health_stops_it(tmp_path, scored, easy_world, monkeypatch):
    """The learned reward is made to rise with each rollout while nothing is right any more after the first ones."""
    judged, answered = [0], [0]

    def rising(self, items, answers):
        judged[0] += 1
        return [float(judged[0])] * len(answers)

    def falling(item, answer):
        answered[0] += 1
        return answered[0] < 15

    monkeypatch.setattr(RewardJudge, "__call__", rising)
    monkeypatch.setattr("penjing.alignment.rewards.check", falling)
    training = Training(
        steps=40, optimizer="adamw", learning_rate=0.0, schedule="constant", precision="fp32", validate_every=40
    )
    tiny = {"prompts": 1, "answers": 1, "parts": 1, "max_new_tokens": 2, "validation": 1}
    with pytest.raises(TrainingError, match="the reward is being hacked"):
        make_ppo(tmp_path, {}, **scored, **tiny, training=training, stop=("reward_hacking",))


def test_the_rewards_plot_needs_no_step(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert ppo.plot_rewards(tmp_path).is_file()


def test_refuses_what_cannot_be():
    assert KINDS["ppo"] is PPOStage
    assert KINDS["reward"] is Reward
    with pytest.raises(ConfigError, match="two networks"):
        PPOStage(training=Training(steps=1)).check()
    with pytest.raises(ConfigError, match="no skill 'fact'; did you mean 'facts'"):
        Reward(training=STEPS, skills=("fact",)).check()
    with pytest.raises(ConfigError, match="no rule of health 'hacking'"):
        PPOStage(training=STEPS, stop=("hacking",)).check()
    assert list(Reward(training=STEPS, data="d").named_files()) == ["d"]
    assert list(Reward(training=STEPS, model="m", answered_by="a").named_models()) == ["m", "a"]
    assert list(PPOStage(training=STEPS, reward="r").named_models()) == ["r"]


def test_refuses_a_file_of_too_few_pairs_and_answers_that_are_all_alike(tmp_path, easy_world, monkeypatch):
    with pytest.raises(DataError, match="there are 12 preferences"):
        make_reward(tmp_path, data=write_pairs(tmp_path / "pairs.jsonl"), validation=50)
    (tmp_path / "reward").rmdir()
    monkeypatch.setattr(sampled, "checked", lambda items: lambda number, answer: 0)
    with pytest.raises(DataError, match="all right or all wrong"):
        make_reward(tmp_path, questions=2, answers=2)
