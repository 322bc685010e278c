"""Models that begin without memory, on one process; on several: `distributed/test_memory.py`."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from penjing.errors import CheckpointError, TrainingError
from penjing.models.folder import fill_from, load_model, save
from penjing.training.crew import Crew
from penjing.training.objectives import next_token
from tests.training import tiny


def _meta(model):
    with torch.device("meta"):
        return model.config.build()


def _initialise(model):
    model.initialise(torch.Generator().manual_seed(1))


def _drawn_in_place(model):
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)


def _engine(model, fill=None):
    cpu = torch.device("cpu")
    return Crew().engine(
        model, next_token, tiny.OPTIMIZERS["adamw"], device=cpu, dtype=torch.float32, clip=None, fill=fill
    )


def test_a_run_of_a_model_without_memory_is_the_run_of_one_with(tmp_path):
    """Every weight after six steps is equal, bit for bit; a run that goes on takes its weights from the checkpoint."""
    whole = tiny.trainer(tmp_path / "whole", steps=6)
    whole.run()

    def never(model):
        raise AssertionError("a checkpoint has the weights")

    for fill in (_initialise, never):
        deferred = tiny.trainer(tmp_path / "deferred", steps=6, model=_meta(tiny.model()), fill=fill)
        assert deferred.run().step == 6
        for one, other in zip(whole.model.parameters(), deferred.model.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_filled_as_a_whole_model_is(tied):
    """By the model itself, and by layers that draw right into their weights; exactly equal, the tie included."""
    config = replace(tiny.model().config, tied=tied)
    for fill in (_initialise, _drawn_in_place):
        expected = config.build()
        with torch.no_grad():
            fill(expected)
        with torch.device("meta"):
            model = config.build()
        _engine(model, fill)
        assert (model.head.weight is model.embedding.weight) == tied
        assert all(torch.equal(one, two) for one, two in zip(model.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_filled_from_a_folder(tmp_path, dtype):
    """As a whole model is loaded: exactly equal, in float32 whatever the file has."""
    save(tmp_path / "model", tiny.model().to(dtype))
    model = _meta(tiny.model())
    _engine(model, partial(fill_from, tmp_path / "model"))
    expected = load_model(tmp_path / "model", dtype=torch.float32)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_folder_of_another_model_is_an_error(tmp_path):
    save(tmp_path / "model", tiny.model(layers=3))
    with pytest.raises(CheckpointError, match="unexpected"):
        _engine(_meta(tiny.model()), partial(fill_from, tmp_path / "model"))


def test_only_language_models_begin_without_memory():
    with torch.device("meta"):
        other = nn.Linear(2, 2)
    with pytest.raises(TrainingError, match="only language models can begin on the meta device; this is a Linear"):
        _engine(other)
