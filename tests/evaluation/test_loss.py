"""The mean loss of given batches."""

import pytest
import torch

from penjing.data.batch import TokenBatch
from penjing.errors import DataError
from penjing.evaluation.loss import mean_loss
from tests.inference import tiny


def test_it_is_measured_without_dropout_and_leaves_every_module_as_it_was():
    """Also when a batch fails: a part that was frozen in evaluation mode stays so, the others go on training."""
    model = tiny.model(61, context=16, dropout=0.5).train()
    model.norm.eval()
    before = {name: module.training for name, module in model.named_modules()}
    tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(1))
    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 8, dtype=torch.bool))

    def batches(failing):
        yield batch
        assert not any(module.training for module in model.modules())
        if failing:
            raise DataError("the disk is gone")

    assert mean_loss(model, batches(failing=False)) == mean_loss(model, [batch])

    with pytest.raises(DataError, match="the disk is gone"):
        mean_loss(model, batches(failing=True))
    assert {name: module.training for name, module in model.named_modules()} == before
