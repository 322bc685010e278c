"""Typed settings, as recipes write them, and the tables of a recipe that are no stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from penjing.errors import ConfigError, nearest

if TYPE_CHECKING:
    from penjing.training.distributed.mesh import Parallel

Count = Annotated[int, Field(ge=1)]
"""A setting that is a whole number from 1 on."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A setting that is a part of something, 0 to 1."""


class Settings(BaseModel):
    """Settings of a stage or a part of one: typed, frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_S = TypeVar("_S", bound=Settings)


def read_table(path: Path, name: str, table: dict[str, Any], model: type[_S]) -> _S:
    """The settings that a table of a TOML file holds.

    Args:
        path: the file, for messages.
        name: the table's name; empty for the file as a whole.
        table: what `tomllib` read.
        model: which settings.

    Raises:
        ConfigError: a key is unknown or missing, or a value cannot be; one line for the first of them.
    """
    try:
        return model.model_validate(table)
    except ValidationError as fault:
        where = f"{path}, [{name}]" if name else str(path)
        raise ConfigError(f"{where}: {_first_error(fault, model)}") from None


def _first_error(fault: ValidationError, model: type[BaseModel]) -> str:
    """One line for the first thing that pydantic found wrong; a misspelt key first, with a suggestion."""
    error = min(fault.errors(), key=lambda error: error["type"] != "extra_forbidden")
    where = [str(part) for part in error["loc"]]
    key = ".".join(where)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'{nearest(where[-1], _keys(model, where[:-1]))}"
    if error["type"] == "missing":
        return f"the key '{key}' is missing"
    if error["type"] == "value_error":  # one of ours, about several keys
        return f"{key}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    return f"{key} = {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(model.model_fields)


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
