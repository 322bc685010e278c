"""The stage that learns from preferences, on a model of a few bytes: what it reads, makes, keeps and refuses."""

import json
import math

import pytest

import penjing
from penjing.alignment import sampled
from penjing.alignment.reference import computed_in
from penjing.data import preferences
from penjing.data.preferences import Comparison
from penjing.errors import ConfigError, DataError
from penjing.stages import KINDS
from penjing.stages.data import World
from penjing.stages.preference import Preference, _border
from penjing.stages.settings import Training
from penjing.stages.training import Instruct
from penjing.training.metrics import read_metrics
from tests.stages.test_stages import TRAINING, save_model, workshop

STEPS = Training(steps=3, batch=4, optimizer="adamw", learning_rate=0.01, precision="fp32", validate_every=3)

SAMPLED = sampled.Sampled(
    ({"role": "user", "content": "?"},),
    (({"role": "assistant", "content": "yes"},), ({"role": "assistant", "content": "no"},)),
    (1.0, 0.0),
)


def write_pairs(path, count=12):
    records = [{"prompt": f"{n // 2}?", "chosen": f"yes {n}", "rejected": "no", "margin": n} for n in range(count)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def run(tmp_path, **settings):
    base = save_model(tmp_path / "base")
    settings = {"data": write_pairs(tmp_path / "pairs.jsonl"), "training": STEPS, "validation": 3, **settings}
    stage = Preference(model=str(base), **settings)
    stage.check()
    place = workshop(tmp_path, {"dpo": stage}, "dpo")
    return place.folder, stage.run(place)


def test_a_file_of_pairs_becomes_a_model_with_its_curves(tmp_path):
    """The first step's loss is ln 2 up to the rounding of another packing, and validation's before it, 1e-6."""
    folder, result = run(tmp_path)
    steps = [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert result["validation_before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert {"margin", "accuracy", "kl", "chosen_reward"} <= set(steps[0])
    assert result["validation"]["loss"] < result["validation_before"]["loss"]
    assert (result["method"], result["preferences"], result["steps"]) == ("dpo", 12, 3)
    assert result["left_out"] == {"equal": 0, "empty": 0, "too_long": 0}
    assert all((folder / f"{name}.png").is_file() for name in ("margin", "accuracy", "kl", "loss"))
    model, tokenizer = penjing.load(folder / "model")
    assert tokenizer.chat is not None
    assert model.embedding.weight.sub(penjing.load(tmp_path / "base")[0].embedding.weight).abs().max() > 0
    assert computed_in(folder / "reference.safetensors") == "float32"


def test_a_prompt_s_pairs_are_either_learned_from_or_kept_for_validation(tmp_path):
    """Prompts of two pairs each: an odd border moves to before both; with too few there is none."""
    pairs = list(preferences.comparisons(write_pairs(tmp_path / "pairs.jsonl")))
    assert [_border(pairs, kept) for kept in (2, 3, 4, 11, 12, 50)] == [10, 8, 8, 0, 0, 0]


@pytest.mark.parametrize(
    ("method", "settings"),
    [("kto", {"desirable_weight": 2}), ("simpo", {"gamma": 0.5})],
)
def test_other_methods_are_chosen_by_name(tmp_path, method, settings):
    folder, result = run(tmp_path, method=method, settings=settings, validation=6)
    assert (folder / "model" / "model.safetensors").is_file()
    assert (folder / "reference.safetensors").is_file() == (method == "kto")
    assert result["preferences"] == (24 if method == "kto" else 12)
    assert result["validation"]["loss"] < result["validation_before"]["loss"]


def test_without_data_the_model_s_own_answers_are_paired_once(tmp_path, monkeypatch):
    """The world's languages and notes are asked for; pairs lie in the folder, and a run that goes on reads them."""
    save_model(tmp_path / "chat" / "model")
    stage = Preference(training=STEPS, validation=2, questions=40, answers=3, skills=("calendar",))
    stages = {"world": World(languages=("zh",), notes=False), "chat": Instruct(training=TRAINING), "dpo": stage}
    asked = []

    def sample(model, tokenizer, prompts, score, *, rollouts, **options):
        asked.append((len(prompts), rollouts.n))
        answers = tuple(({"role": "assistant", "content": text},) for text in ("yes", "no"))
        return [sampled.Sampled(tuple(prompt), answers, (1.0, 0.0)) for prompt in prompts]

    items = sampled.world_items

    def only(count, **options):
        assert (options["languages"], options["notes"], options["skills"]) == (("zh",), False, ("calendar",))
        return items(count, **options)

    monkeypatch.setattr(sampled, "sample", sample)
    monkeypatch.setattr(sampled, "world_items", only)
    monkeypatch.setattr(
        sampled, "prompts_of", lambda items: [[{"role": "user", "content": f"{n}"}] for n, _ in enumerate(items)]
    )
    place = workshop(tmp_path, stages, "dpo")
    result = stage.run(place)
    assert result["preferences"] == 40
    made = list(preferences.comparisons(place.folder / "pairs.jsonl"))
    assert [type(one) for one in made] == [Comparison] * 40
    stage.run(place)
    assert asked == [(40, 3)]


def test_a_second_stage_goes_on_from_the_first_and_asks_other_questions(tmp_path, monkeypatch):
    """Both stages' seeds are noted; the second one's model is what the first one made."""
    stage = Preference(training=STEPS, validation=2, questions=4)
    stages = {"chat": Instruct(training=TRAINING), "one": stage, "two": stage}
    noted = []

    def note(self, place, base, *rest):
        noted.append(base)
        return {}

    def items(count, *, seed, **options):
        noted.append(seed)
        return []

    monkeypatch.setattr(Preference, "_train", note)
    monkeypatch.setattr(sampled, "world_items", items)
    monkeypatch.setattr(sampled, "sample", lambda *given, **options: [SAMPLED])
    for name in ("chat", "one"):
        save_model(tmp_path / name / "model")
    (tmp_path / "one").rename(tmp_path / "made")
    stage.run(workshop(tmp_path, stages, "one"))
    (tmp_path / "made" / "model").rename(tmp_path / "one" / "model")
    stage.run(workshop(tmp_path, stages, "two"))
    first, base, second, latest = noted
    assert second - first == 5_000_000
    assert (base, latest) == (tmp_path / "chat" / "model", tmp_path / "one" / "model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "dqo"}, "there is no method 'dqo'; did you mean 'dpo'"),
        ({"settings": {"betta": 1}}, "dpo has no setting 'betta'; did you mean 'beta'"),
        ({"settings": {"beta": -1}}, "beta is -1"),
        ({"settings": {"per_token": 2}}, "per_token is 2.*like False"),
        ({"skills": ("calender",)}, "there is no skill 'calender'; did you mean 'calendar'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_stage(settings, message):
    with pytest.raises(ConfigError, match=message):
        Preference(training=STEPS, **settings).check()


def test_too_few_preferences_are_an_error_that_says_what_to_lower(tmp_path):
    with pytest.raises(DataError, match="there are 12 preferences, and 50 of them are for validation; lower"):
        run(tmp_path, validation=50)


def test_recipes_know_the_kind():
    stage = Preference(training=STEPS, data="a.jsonl", model="base")
    assert KINDS["preference"] is Preference
    assert [*stage.named_files(), *stage.named_models()] == ["a.jsonl", "base"]
