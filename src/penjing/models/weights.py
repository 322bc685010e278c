"""Weights from files into a model, by a family's table, strictly.

Everything is compared with the model before a weight is read: which tensors there are, their shapes, their dtypes. One
message then names what is missing, what is unexpected and what has another shape.

Files are mapped into memory. Each tensor is then copied once, in the order of the file and a block at a time, and a
block is searched for NaN while it is still in the processor's cache. What was mapped for a tensor is given back after
it, so loading takes the memory of the model and of one tensor.

The mapped bytes themselves could be the weights; they are not, for four reasons. A file that is cut short while it is
mapped kills the process, and one that is overwritten in place changes the model. Files align tensors to 8 bytes, matrix
libraries want 64, and some round differently where they do not get them: the same weights would give other logits from
another file. And the search for NaN reads everything anyway, so nothing would be faster. The price: several processes
with one model do not share its memory.
"""

import math
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from penjing.errors import CheckpointError
from penjing.models.encoder import Encoder
from penjing.models.families.family import Family, Stored
from penjing.models.language_model import LanguageModel

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LISTED = 6  # how many faulty weights a message names
BLOCK = 1 << 18  # numbers that are copied and checked at a time: 1 MiB of float32


class MappedFile:
    """A file as memory: a page is read when it is touched, and given back by `release`."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            # tensors want memory that could be written; with ACCESS_COPY no write would ever reach the file
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensor(self, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The numbers from byte `start` on, in the file's own memory."""
        return torch.frombuffer(self._bytes, dtype=dtype, count=math.prod(shape), offset=start).view(shape)

    def release(self, start: int, end: int) -> None:
        """Gives back the pages of these bytes; touched again, they would be read again."""
        if hasattr(self._bytes, "madvise"):  # Windows has none; there the system takes pages back when it needs them
            first, last = (place - place % mmap.PAGESIZE for place in (start, end))
            self._bytes.madvise(mmap.MADV_DONTNEED, first, last - first)


@dataclass(frozen=True)
class Held:
    """A tensor in a file, not read yet."""

    shape: tuple[int, ...]
    """Its shape in the file."""
    dtype: str
    """As safetensors names it: F32, BF16, I8, ..."""
    read: Callable[[], Tensor]
    """Gives it, perhaps in the file's own memory."""
    release: Callable[[], None] | None = None
    """Gives back what `read` has mapped, where that can be done."""

    def done(self) -> None:
        """To be called when what was read is copied."""
        if self.release is not None:
            self.release()


def mapped(file: MappedFile, start: int, dtype: str, shape: tuple[int, ...]) -> Held:
    """The tensor at byte `start` of a mapped file. Only one of `FLOATS` can be read."""

    def release() -> None:
        file.release(start, start + math.prod(shape) * FLOATS[dtype].itemsize)

    return Held(shape, dtype, lambda: file.tensor(start, FLOATS[dtype], shape), release)


def stream_weights(
    place: Path,
    held: Iterable[tuple[str, Held]],
    family: Family[Any],
    model: LanguageModel | Encoder,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Iterator[tuple[str, Tensor]]:
    """Our weights' names and their tensors, one after another. Each has memory of its own, aligned as the processor
    likes it.

    Args:
        place: what errors name.
        held: stored names and their tensors, in the order in which they are best read.
        family: whose names and layout they have.
        model: says which weights are needed (it may be on the meta device).
        device: where the tensors go.
        dtype: what they become; None keeps the embedding's.

    Raises:
        CheckpointError: weights that are missing, unexpected, stored twice, of another shape, not floating-point
            numbers, or not finite.
    """
    table = family.table(model)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    found, twice = _by_known_names(held, family, table)
    wanted = {name: stored.shape(shapes) for name, stored in table.items()}
    embedding = next(name for name, stored in table.items() if stored.names == ("embedding.weight",))
    head = _head_name(family)
    if model.config.tied and head in found:
        wanted[head] = wanted[embedding]
    _compare(place, found, wanted, twice)

    dtype = dtype or FLOATS[found[embedding].dtype]
    tied_head = found.pop(head) if model.config.tied and head in found else None
    broken = []
    for name, tensor in found.items():
        for ours, view in table[name].read(tensor.read(), shapes).items():
            weight, finite = copied(view, dtype, device)
            if not finite:
                narrower = FLOATS[tensor.dtype] != dtype
                broken.append(f"{ours} (of {tensor.dtype}, as {dtype})" if narrower else ours)
            yield ours, weight
        tensor.done()
    if broken:
        raise CheckpointError(f"{place}: NaN or infinity in {listed(broken)}")
    if tied_head is not None:
        (of_embedding,) = table[embedding].read(found[embedding].read(), shapes).values()
        if not torch.equal(tied_head.read().to(dtype), of_embedding.to(dtype)):
            raise CheckpointError(f"{place}: the config ties the head to the embedding, but they differ")
        tied_head.done()
        found[embedding].done()


def copied(view: Tensor, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, bool]:
    """A contiguous copy of `view` in another dtype or place, and whether all of its numbers are finite."""
    copy = torch.empty(view.shape, dtype=dtype, device=device)
    mine, theirs = torch.atleast_1d(copy), torch.atleast_1d(view)
    rows = max(1, BLOCK * len(theirs) // theirs.numel())
    finite = torch.ones((), dtype=torch.bool, device=device)
    for target, source in zip(mine.split(rows), theirs.split(rows), strict=True):
        target.copy_(source)
        finite &= target.amin().isfinite() & target.amax().isfinite()  # NaN is both; no mask takes memory or time
    return copy, bool(finite)


def fill(model: LanguageModel | Encoder, weights: dict[str, Tensor]) -> None:
    """Puts tensors in the place of a model's weights."""
    if model.config.tied:
        weights = {**weights, "head.weight": weights["embedding.weight"]}
    model.load_state_dict(weights, assign=True)
    model.tie()


def listed(names: Iterable[str]) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _by_known_names(
    held: Iterable[tuple[str, Held]], family: Family[Any], table: Mapping[str, Stored]
) -> tuple[dict[str, Held], list[str]]:
    """All tensors under the names of the table, what holds no weights left out; and the names that come twice."""
    found: dict[str, Held] = {}
    twice = []
    for name, tensor in held:
        if any(re.fullmatch(pattern, name) for pattern in family.ignored):
            continue
        known = name if name in table or family.prefix + name not in table else family.prefix + name
        if known in found:
            twice.append(known)
        found[known] = tensor
    return found, twice


def _compare(
    place: Path, found: Mapping[str, Held], wanted: Mapping[str, tuple[int, ...]], twice: Iterable[str]
) -> None:
    both = [name for name in wanted if name in found]
    faults = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "stored twice": twice,
        "of another shape than the config says": [
            f"{name} {found[name].shape} for {wanted[name]}" for name in both if found[name].shape != wanted[name]
        ],
        "no floating-point numbers": [
            f"{name} ({found[name].dtype})" for name in both if found[name].dtype not in FLOATS
        ],
    }
    told = [f"{what}: {listed(names)}" for what, names in faults.items() if names]
    if told:
        raise CheckpointError(f"{place}: weights do not fit the config. " + "; ".join(told))


def _head_name(family: Family[Any]) -> str:
    """The stored name of the head's weight."""
    names = {name: ours if isinstance(ours, str) else ours.names[0] for name, ours in family.weights.items()}
    return next((name for name, ours in names.items() if ours == "head.weight"), "head.weight")
