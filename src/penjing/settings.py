"""Typed settings, as recipes write them, and the tables of a recipe that are no stages."""

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from penjing.errors import ConfigError

if TYPE_CHECKING:
    from penjing.training.distributed.mesh import Parallel

Count = Annotated[int, Field(ge=1)]
"""A setting that is a whole number from 1 on."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A setting that is a part of something, 0 to 1."""


class Settings(BaseModel):
    """Settings of a stage or a part of one: typed, frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RecordedCurve(Settings):
    """A validation curve of an earlier run, to compare with."""

    progress: Annotated[tuple[Fraction, ...], Field(min_length=1)]
    """The fraction of pretraining that was done, point by point."""
    bits_per_byte: tuple[Annotated[float, Field(ge=0)], ...]
    """What validation found there."""

    @model_validator(mode="after")
    def _as_many(self) -> "RecordedCurve":
        if len(self.progress) != len(self.bits_per_byte):
            raise ValueError(f"{len(self.progress)} values of progress, but {len(self.bits_per_byte)} of bits_per_byte")
        return self


class ParallelTable(Settings):
    """How training is divided among the processes that `torchrun` starts: `penjing.training.distributed.mesh`."""

    data: Count | None = None
    """Copies of the weights, each trained on rows of its own; by default as many as there are processes for."""
    shard: Count = 1
    """Processes that hold a copy of the weights together (FSDP), each trained on rows of its own."""
    tensor: Count = 1
    """Processes that compute each layer together."""
    pipeline: Count = 1
    """Processes that hold the layers one after another."""
    context: Count = 1
    """Processes that divide the tokens of each row."""
    micro_batches: Count | None = None
    """Pieces that a batch is cut into to fill a pipeline; by default twice as many as it has stages, if that goes."""
    interleave: Count = 1
    """Stages on each process of a pipeline."""
    offload: bool = False
    """Keep weights and optimizer in the memory of the CPU; layers go to the GPU to compute."""

    def among(self, processes: int) -> "Parallel":
        """The layout for so many processes.

        Raises:
            ConfigError: they do not come out even.
        """
        from penjing.training.distributed.mesh import Parallel

        others = self.shard * self.tensor * self.pipeline * self.context
        if self.data is None and processes % others:
            raise ConfigError(
                f"{processes} process{'es' * (processes > 1)} cannot be divided by shard {self.shard} x tensor "
                f"{self.tensor} x pipeline {self.pipeline} x context {self.context} = {others} of [parallel]: "
                f"start them with torchrun --nproc-per-node {others} -m penjing run ..., or a multiple of it"
            )
        data = processes // others if self.data is None else self.data
        if data * others != processes:
            raise ConfigError(
                f"[parallel] asks for {data * others} processes, and there {'is' if processes == 1 else 'are'} "
                f"{processes}: start it with torchrun --nproc-per-node {data * others} -m penjing run ..."
            )
        return Parallel(**{**self.model_dump(), "data": data})
