"""What recipes say of models and training arrives in their configs."""

import pytest
import torch
from pydantic import ValidationError

from penjing.errors import ConfigError
from penjing.stages.settings import Model, Training
from penjing.training.adamw import AdamW
from penjing.training.muon import Muon


def test_with_adamw_alone_the_learning_rate_is_the_peak_of_everything():
    """Also in a recipe that was written for Muon and has a rate for what Muon leaves to AdamW."""
    optimizer = Training(optimizer="adamw", learning_rate=3e-3, adamw_learning_rate=1e-2, steps=1).trainer(1).optimizer
    assert isinstance(optimizer, AdamW.Config)
    assert optimizer.learning_rate == 3e-3


@pytest.mark.parametrize(("given", "expected"), [(None, 3e-3), (1e-2, 1e-2), (0.0, 0.0)])
def test_beside_muon_adamw_has_its_own_rate_or_the_same(given, expected):
    optimizer = Training(learning_rate=3e-3, adamw_learning_rate=given, steps=1).trainer(1).optimizer
    assert isinstance(optimizer, Muon.Config)
    assert optimizer.learning_rate == 3e-3
    assert optimizer.adamw.learning_rate == expected


@pytest.mark.parametrize(
    ("family", "hidden", "expected"), [("llama", None, 192), ("llama", 7, 7), ("gpt2", None, 256), ("gpt2", 7, 7)]
)
def test_the_width_of_the_mlp_is_as_given_or_follows_from_the_model(family, hidden, expected):
    (layer,) = Model(family=family, width=64, layers=1, heads=2, hidden=hidden).config(300).layers
    assert layer.mlp.hidden == expected


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("none", "none"), ("selective", "selective"), ("full", "full"), (True, True), (None, "none")],
)
def test_gradient_checkpointing_has_three_values_and_the_two_of_older_recipes(setting, expected):
    given = {} if setting is None else {"gradient_checkpointing": setting}
    assert Training(steps=1, **given).trainer(1).gradient_checkpointing == expected
    with pytest.raises(ValidationError):
        Training(steps=1, gradient_checkpointing="some")


def test_float8_on_a_machine_that_has_none_is_refused_before_anything_is_made(monkeypatch):
    """By the check that a stage makes before its recipe begins."""
    monkeypatch.setattr("penjing.device.choose_device", lambda name: torch.device("cpu"))
    assert Training(steps=1, float8=True).trainer(1).float8
    Training(steps=1).check()
    with pytest.raises(ConfigError, match="compute capability"):
        Training(steps=1, float8=True).check()


@pytest.mark.parametrize("wrong", [{"width": 0}, {"kv_heads": 0}, {"hidden": 0}, {"context": -1}, {"rope_theta": 0}])
def test_shapes_begin_at_one(wrong):
    with pytest.raises(ValidationError):
        Model(**{"width": 8, "layers": 1, "heads": 1, **wrong})


def test_a_tuned_width_names_a_like_model():
    """Heads 32 wide as here; key and value heads and the perceptron in proportion; unnamed, there is none."""
    shape = Model(width=256, layers=3, heads=8, kv_heads=4, hidden=640, context=64, tuned_width=64)
    assert shape.tuned() == Model(width=64, layers=3, heads=2, kv_heads=1, hidden=160, context=64)
    assert Model(width=256, layers=3, heads=8).tuned() is None
    assert Model(width=256, layers=3, heads=8).transfer(300) is None
    assert Model(width=192, layers=1, heads=6, kv_heads=2, tuned_width=96).tuned().kv_heads == 1


@pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("llama", True), ("qwen3", False)])
def test_factors_are_for_the_model_that_is_built(family, tied):
    """Every family: named as its parameters are; hidden matrices at 1/2, twice as wide."""
    shape = Model(family=family, width=64, layers=1, heads=2, hidden=160, context=64, tied=tied, tuned_width=32)
    model, rule = shape.config(300).build(), shape.transfer(300)
    assert rule.factors.keys() == dict(model.named_parameters()).keys()
    assert rule.factors["blocks.0.mixer.output.weight"].adamw == 0.5


def test_a_width_that_heads_do_not_make_up_is_refused():
    with pytest.raises(ConfigError, match="tuned_width is 48, no multiple of the width of a head, 32"):
        Model(width=256, layers=3, heads=8, tuned_width=48).tuned()
