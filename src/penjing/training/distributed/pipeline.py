"""Pipeline parallelism: layers lie on processes one after another, and micro-batches stream through them.

    1F1B            after filling up, each process does one forward and one backward pass in turn
    interleaved     each process has several stages, so that the pipeline fills up and runs dry in shorter steps

The schedules are PyTorch's. What a stage is sent are activations alone; every process reads the batch by itself.

Sources: Narayanan et al., "PipeDream", 2019, arXiv:1806.03377 (1F1B); "Efficient Large-Scale Language Model Training on
GPU Clusters Using Megatron-LM", 2021, arXiv:2104.04473, section 2.2 (interleaved).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

from penjing.data.batch import TokenBatch
from penjing.errors import ConfigError, PenjingError
from penjing.training.distributed.mesh import Mesh
from penjing.training.distributed.part import Part
from penjing.training.objectives import Loss


class Pipeline:
    """The stages of this process, and the schedules that they have run so far."""

    def __init__(self, parts: Sequence[Part], mesh: Mesh, dtype: torch.dtype):
        self._parts, self._mesh, self._dtype = parts, mesh, dtype
        self._schedules: dict[tuple[int, ...], Any] = {}
        self._width = parts[0].width

    def run(self, batches: Sequence[TokenBatch], *, backward: bool) -> list[Loss]:
        """Streams batches through; their losses, on the process that has the end, else none.

        Raises:
            ConfigError: a batch has fewer rows than the pipeline needs micro-batches.
        """
        pieces = [piece for batch in batches for piece in self._pieces(batch)]
        rows, seq = pieces[0].tokens.shape
        schedule = self._schedule(len(pieces), rows, seq)
        for part in self._parts:
            part.batches, part.losses = pieces, []
        index = torch.arange(len(pieces))
        losses: list[Tensor] = []
        run = schedule.step if backward else schedule.eval
        try:
            run(index=index, target=index, losses=losses, **({"return_outputs": False} if backward else {}))
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, PenjingError):
                cause = cause.__cause__
            raise cause or error from None
        return self._parts[-1].losses

    def _pieces(self, batch: TokenBatch) -> list[TokenBatch]:
        parallel = self._mesh.parallel
        rows = len(batch.tokens)
        count = parallel.micro_batches
        if count is None:
            stages = parallel.pipeline * parallel.interleave
            count = next(c for c in (2 * stages, stages, rows) if rows % c == 0)
        if rows % count:
            raise ConfigError(f"{rows} rows cannot be cut into {count} micro-batches for the pipeline")
        return rows_of(batch, count)

    def _schedule(self, count: int, rows: int, seq: int) -> Any:
        key = (count, rows, seq)
        if key in self._schedules:
            return self._schedules[key]
        parallel = self._mesh.parallel
        number = parallel.pipeline * parallel.interleave
        here = seq // parallel.context // parallel.tensor
        between = torch.empty(rows, here, self._width, dtype=self._dtype, device="meta", requires_grad=True)
        loss = torch.empty(1, device="meta", requires_grad=True)
        stages: list[Any] = [
            PipelineStage(
                part,
                self._mesh.place["pipeline"] + turn * parallel.pipeline,
                number,
                self._mesh.device,
                input_args=() if part.begins else (between,),
                output_args=(loss if part.ends else between,),
                group=self._mesh.pipeline,
            )
            for turn, part in enumerate(self._parts)
        ]
        if len(stages) == 1:
            schedule: Any = Schedule1F1B(stages[0], count, loss_fn=_sum, scale_grads=False)
        else:
            schedule = ScheduleInterleaved1F1B(stages, count, loss_fn=_sum, scale_grads=False)
        return self._schedules.setdefault(key, schedule)


def rows_of(batch: TokenBatch, count: int) -> list[TokenBatch]:
    """A batch in so many pieces of as many rows each."""
    size = len(batch.tokens) // count

    def piece(index: int) -> TokenBatch:
        return batch.changed(lambda x: x[index * size : (index + 1) * size] if len(x) > 1 else x)

    return [piece(index) for index in range(count)]


def tie_group(mesh: Mesh) -> dist.ProcessGroup:
    """This process's pipeline's first and last process, who both have the weights of a tied embedding."""
    assert mesh.ends is not None
    ranks = dist.get_process_group_ranks(mesh.ends)
    mine = (ranks[0], ranks[-1])
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    groups = {pair: dist.new_group(list(pair)) for pair in sorted(set(everyone))}  # all must make all groups
    group = groups[mine]
    assert isinstance(group, dist.ProcessGroup)
    return group


def _sum(output: Tensor, _: Tensor) -> Tensor:
    return output.sum()
