"""The stage 'grpo', with models and texts of a few bytes."""

import json

import pytest
import torch

import penjing
from penjing.errors import ConfigError, DataError
from penjing.stages.grpo import GRPOStage
from penjing.stages.settings import Training
from penjing.training.metrics import read_metrics
from tests.stages.test_stages import save_model, workshop

TRAINING = Training(steps=2, optimizer="adamw", learning_rate=0.01, schedule="constant", precision="fp32")


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "tasks.jsonl"
    lines = [{"prompt": f"{n}+1", "ground_truth": str(n + 1)} for n in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def stage(tmp_path, **settings):
    base = str(save_model(tmp_path / "base"))
    return GRPOStage(**{"training": TRAINING, "model": base, "prompts": 3, "answers": 4, "max_new_tokens": 5,
                        "validation": 2, **settings})  # fmt: skip


def run(tmp_path, made):
    made.check()
    place = workshop(tmp_path, {"grpo": made}, "grpo")
    return made.run(place), place


def test_trains_on_tasks_of_a_file_and_says_what_came_of_it(tmp_path, tasks):
    made = stage(tmp_path, data=tasks, form="(?s).*e.*", overlong=2, kl=0.1, kl_in_reward=0.1, entropy=0.01,
                 method="dapo", parts=2, epochs=2, tries=2, lag=1, correction=2.0)  # fmt: skip
    result, place = run(tmp_path, made)
    assert [*made.named_files(), *made.named_models()] == [tasks, made.model]
    assert (result["questions"], result["steps"]) == (6, 2)
    assert result["before"]["accuracy"] == 0
    assert "held out: 0.0% right before" in place.output.file.getvalue()
    model, tokenizer = penjing.load(place.folder / "model")
    assert tokenizer.chat is not None
    before, _ = penjing.load(made.model)
    assert not torch.equal(model.head.weight, before.head.weight)
    lines = [line for line in read_metrics(place.folder / "metrics.jsonl") if "reward" in line]
    assert len(lines) == 2
    assert {"reference_kl", "entropy", "without_signal", "truncated", "clip_fraction"} <= set(lines[0])
    assert all((place.folder / f"{name}.png").is_file() for name in ("reward", "kl", "entropy", "loss"))


def test_asks_the_world_s_questions_by_default(tmp_path):
    result, _ = run(tmp_path, stage(tmp_path, questions=6, skills=("compare",), max_new_tokens=4, model=None,
                                    training=TRAINING.model_copy(update={"steps": 1})
                                    ).model_copy(update={"model": str(save_wide(tmp_path / "wide"))}))  # fmt: skip
    assert result["questions"] <= 6
    assert result["steps"] == 1


def test_real_tasks_can_be_learned_from(tmp_path, data):
    """The shortest of open-instruct's sample, whose prompts have examples in them. A model of random weights answers
    nothing right: what is tested is that such records are read, asked and judged."""
    lines = (data / "instruct" / "open_instruct_rlvr_sample.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(sorted(lines, key=len)[:8]) + "\n", encoding="utf-8")
    made = stage(tmp_path, data=str(path), prompts=1, answers=2, model=None,
                 training=TRAINING.model_copy(update={"steps": 1})).model_copy(
                     update={"model": str(save_wide(tmp_path / "wide", context=2048))})  # fmt: skip
    result, _ = run(tmp_path, made)
    assert result["questions"] == 6
    assert result["steps"] == 1


def save_wide(folder, context=512):
    """A model whose context has room for the world's questions, a byte a token."""
    from penjing.stages.settings import Model
    from tests.stages.test_stages import TOKENIZER

    model = Model(width=16, layers=1, heads=2, context=context).config(TOKENIZER.vocab_size).build()
    model.initialise(torch.Generator().manual_seed(1))
    penjing.save(folder, model, TOKENIZER)
    return folder


def test_a_step_that_is_a_rollout_needs_no_old_log_probs(tmp_path, tasks, monkeypatch):
    """They would cost a pass; the policy is its own old one."""
    calls = []
    from penjing.alignment import rollout_loader

    real = rollout_loader.frozen_log_probs
    monkeypatch.setattr(rollout_loader, "frozen_log_probs", lambda *given: calls.append(1) or real(*given))
    run(tmp_path, stage(tmp_path, data=tasks))
    assert calls == []


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"method": "gropo"}, "there is no method 'gropo'; did you mean 'grpo'"),
        ({"stop": ("entropy_colapse",)}, "no rule of health 'entropy_colapse'; did you mean 'entropy_collapse'"),
        ({"skills": ("calender",)}, "no skill 'calender'; did you mean 'calendar'"),
        ({"form": "("}, "no regular expression"),
        ({"overlong": 9}, "buffer is 9"),
        ({"training": Training(steps=1, grow=0.5, accumulate=2)}, "grow is not for rollouts"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tmp_path, settings, what):
    with pytest.raises(ConfigError, match=what):
        stage(tmp_path, **settings).check()


def test_too_few_tasks_are_refused(tmp_path, tasks):
    with pytest.raises(ConfigError, match="there are 8 tasks that fit, and 9 of them are for validation"):
        run(tmp_path, stage(tmp_path, data=tasks, validation=9))


def test_prompts_longer_than_the_context_are_refused(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prompt": "a" * 100, "answer": "1"}) + "\n")
    with pytest.raises(DataError, match="none of the 1 prompts leaves room"):
        run(tmp_path, stage(tmp_path, data=str(path)))


def test_a_rule_that_is_named_ends_the_run(tmp_path, tasks):
    """A random model says nothing that is a number and nothing else: no signal."""
    from penjing.errors import TrainingError

    made = stage(
        tmp_path, data=tasks, reward="exact", stop=("no_signal",), training=TRAINING.model_copy(update={"steps": 12})
    )
    with pytest.raises(TrainingError, match="step 10: every group has equal rewards: no gradient"):
        run(tmp_path, made)
