"""What one process computes of a model: some of its layers, for some of its tokens, and the loss if it has the end.

The objective is the same as on a single process. It is given a batch and a model; where rows, layers or vocabularies
are divided, that model is a stand-in whose `hidden` gives this process's share of what the real one would give.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from penjing.data.batch import TokenBatch
from penjing.errors import ConfigError, TrainingError
from penjing.models.language_model import LanguageModel
from penjing.nn import sequence as sequences
from penjing.nn.head import Head
from penjing.training.distributed import context, tensor
from penjing.training.distributed.mesh import Mesh
from penjing.training.objectives import Loss, Objective


class Part(nn.Module):
    """The layers `first` to before `last` of a model, under the names that they have there.

    It begins with the embedding if it has layer 0, and ends with norm, head and objective if it has the last layer.
    """

    def __init__(self, model: LanguageModel, objective: Objective, mesh: Mesh, first: int, last: int):
        super().__init__()
        self.begins, self.ends = first == 0, last == len(model.blocks)
        if self.begins:
            self.embedding, self.learned_positions = model.embedding, model.learned_positions
        self.blocks = nn.ModuleDict({str(index): model.blocks[index] for index in range(first, last)})
        if self.ends:
            self.norm, self.head = model.norm, model.head
        self._model = (model,)  # in a tuple, so that what others have does not become a part of this
        self._objective = objective
        parallel = mesh.parallel
        self._whole = parallel.tensor == parallel.context == parallel.pipeline == 1
        self._ring = context.Ring.of(mesh.context) if parallel.context > 1 else None
        self._tensor = mesh.tensor if parallel.tensor > 1 else None
        self.width = model.config.width
        self.batches: Sequence[TokenBatch] = []
        """What the next calls read."""
        self.losses: list[Loss] = []
        """What calls have found, where there is an end."""

    def forward(self, x: Tensor | None = None, *, index: Tensor) -> Tensor:
        """From what the layers before wrote (None at the beginning) to what these write, or to the summed loss, `(1,)`.

        `index` is the batch's, `(1,)`: pipelines pass tensors.
        """
        batch, model = self.batches[int(index)], self._model[0]
        if self._whole:
            return self._found(self._objective(model, batch))
        own, sequence = self._cut(batch)
        if x is None:
            x = model.embedded(own.tokens, sequence)
        for block in self.blocks.values():
            x = block(x, sequence)
        if not self.ends:
            return x
        x = self.norm(x)
        if self._tensor is not None:
            if self.head.share is not None:
                x = tensor.gathered(x, self._tensor)
            else:
                own = _sliced(own, self._tensor)
        with tensor.own_shares(self.head):
            return self._found(self._objective(_Reached(x, own, model, self.head), own))

    def _found(self, loss: Loss) -> Tensor:
        self.losses.append(Loss(loss.total.detach(), loss.weight, loss.metrics))
        return loss.total[None].clone()

    def _cut(self, batch: TokenBatch) -> tuple[TokenBatch, sequences.Sequence]:
        """This process's tokens of a batch's rows."""
        if self._ring is not None:
            return context.cut(batch, self._ring)
        positions = batch.positions
        if positions is None and batch.documents is not None:
            positions = sequences.positions_in_documents(batch.documents)
        if positions is None:
            positions = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)[None]
        return batch, sequences.Sequence(positions, 0, batch.documents)


class _Reached:
    """A model that has already read its batch, as the objective sees it."""

    def __init__(self, hidden: Tensor, batch: TokenBatch, model: LanguageModel, head: Head):
        self._hidden, self._batch = hidden, batch
        self.config, self.head, self.training = model.config, head, model.training

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        state: None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """As `LanguageModel.hidden`, for the tokens of the batch alone."""
        if tokens is not self._batch.tokens or state is not None:
            raise TrainingError(
                "this objective reads other tokens than its batch's, which works with data and shard parallelism only"
            )
        return self._hidden if wanted is None else self._hidden.flatten(0, 1).index_select(0, wanted)

    def __call__(self, tokens: Tensor, positions: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
        if self.head.share is not None:
            raise TrainingError("this objective needs all logits, and the vocabulary is divided; use tensor = 1")
        return self.head(self.hidden(tokens, positions, documents))


def _sliced(batch: TokenBatch, mesh: Any) -> TokenBatch:
    """This process's slice of the tokens, for a loss that is computed where they are."""
    return batch.changed(lambda x: tensor.own_slice(x, mesh))


def check_division(model: LanguageModel, rows: int | None, seq: int | None, mesh: Mesh) -> None:
    """Whether a run's numbers can be divided as the mesh wants.

    Raises:
        ConfigError: they cannot; it says which number by which.
    """
    parallel = mesh.parallel
    tensor.check(model, parallel.tensor)
    stages = parallel.pipeline * parallel.interleave
    if stages > len(model.blocks):
        raise ConfigError(f"{stages} pipeline stages need as many layers; the model has {len(model.blocks)}")
    if rows is not None and rows % parallel.readers:
        raise ConfigError(
            f"a batch of {rows} rows cannot be divided among data {parallel.data} x shard {parallel.shard} = "
            f"{parallel.readers} processes"
        )
    pieces = parallel.tensor * (2 * parallel.context if parallel.context > 1 else 1)
    if seq is not None and seq % pieces:
        raise ConfigError(
            f"rows of {seq} tokens cannot be divided into {pieces} pieces (tensor {parallel.tensor}"
            + (f", context {parallel.context} with two chunks each)" if parallel.context > 1 else ")")
        )


def layers_of(mesh: Mesh, layers: int) -> list[tuple[int, int]]:
    """The first layer and the one after the last of each of this process's stages, as even as can be."""
    stages = mesh.parallel.pipeline * mesh.parallel.interleave
    borders = [round(stage * layers / stages) for stage in range(stages + 1)]
    mine = range(mesh.place["pipeline"], stages, mesh.parallel.pipeline)
    return [(borders[stage], borders[stage + 1]) for stage in mine]
