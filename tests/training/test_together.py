"""Checkpoints of models that score, and of models that are trained together."""

from contextlib import ExitStack

import pytest
import torch
from torch.nn import functional as F

from penjing.models.folder import load_model
from penjing.models.scored import ScoredModel
from penjing.models.scored_folder import load_scored
from penjing.training.engine import Engine, blocks_of
from penjing.training.objectives import Loss, next_token
from penjing.training.recomputation import recompute_activations
from penjing.training.saving import Together
from penjing.training.trainer import Trainer
from tests.training import tiny


class Two(Together):
    """A model that writes and one that scores what it wrote."""

    def __init__(self):
        super().__init__()
        self.writer = tiny.model()
        self.judge = ScoredModel.of(tiny.model())


def even(model, batch):
    """Scores are to tell even tokens from odd ones."""
    scores = model(batch.tokens).squeeze(-1)
    return Loss(F.binary_cross_entropy_with_logits(scores, 1.0 - batch.tokens % 2, reduction="sum"), scores.numel())


def both(model, batch):
    one, other = next_token(model.writer, batch), even(model.judge, batch)
    return Loss(one.total / one.weight + other.total / other.weight, 1)


def trainer(out, model, objective, steps):
    config = Trainer.Config(
        optimizer=tiny.OPTIMIZERS["adamw"],
        precision="fp32",
        device="cpu",
        display="quiet",
        budget=tiny.Budget(steps=steps),
        checkpoint_every=4,
    )
    return config.build(model, objective, tiny.CountingLoader(), out)


@pytest.mark.parametrize(
    ("make", "objective"), [(lambda: ScoredModel.of(tiny.model()), even), (Two, both)], ids=["scored", "together"]
)
def test_a_resumed_run_ends_with_the_very_weights_of_one_that_never_stopped(make, objective, tmp_path):
    """Bit for bit, on one thread: 8 steps, the last 4 of them from a checkpoint."""
    whole = make()
    trainer(tmp_path / "whole", whole, objective, 8).run()
    calls = [0]

    def killed(model, batch):
        calls[0] += 1
        if calls[0] > 6:
            raise KeyboardInterrupt
        return objective(model, batch)

    killed.__qualname__ = objective.__qualname__
    first = trainer(tmp_path / "parts", make(), killed, 8)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = make()
    result = trainer(tmp_path / "parts", second, objective, 8).run()
    assert result.step == 8
    for (name, weight), (_, other) in zip(whole.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_blocks_of_models_trained_together_can_be_computed_again():
    """Weights after a step with all activations recomputed are those without, bit for bit: the same kernels ran."""
    stepped = []
    for mode in ("none", "full"):
        model = Two()
        assert len(blocks_of(model)) == 4
        with ExitStack() as stack:
            if mode != "none":
                stack.callback(recompute_activations(model, mode))
            Engine(model, both, tiny.OPTIMIZERS["adamw"]).step([next(tiny.CountingLoader())])
        stepped.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(map(torch.equal, *stepped))


def test_a_checkpoint_and_the_final_model_of_a_scored_model_open_as_such(tmp_path):
    model = ScoredModel.of(tiny.model())
    result = trainer(tmp_path, model, even, 4).run()
    ids = torch.arange(12)[None]
    for folder in (result.checkpoint, tmp_path / "model"):
        assert torch.equal(load_scored(folder)(ids), model(ids))
    assert model.head.weight.any()


def test_of_models_trained_together_the_first_lies_where_a_single_one_would(tmp_path):
    model = Two()
    result = trainer(tmp_path, model, both, 4).run()
    ids = torch.arange(12)[None]
    for folder in (result.checkpoint, tmp_path / "model"):
        assert torch.equal(load_model(folder)(ids), model.writer(ids))
        assert torch.equal(load_scored(folder / "judge")(ids), model.judge(ids))
