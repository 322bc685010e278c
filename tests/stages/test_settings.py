"""What recipes say of models and training arrives in their configs."""

import pytest
from pydantic import ValidationError

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


@pytest.mark.parametrize("wrong", [{"width": 0}, {"kv_heads": 0}, {"hidden": 0}, {"context": -1}, {"rope_theta": 0}])
def test_shapes_begin_at_one(wrong):
    with pytest.raises(ValidationError):
        Model(**{"width": 8, "layers": 1, "heads": 1, **wrong})
