"""Weights from safetensors files, by a family's table, strictly.

Everything is checked against the model before anything is read: which tensors there are, their shapes, their dtypes.
One message then names what is missing, what is unexpected and what has another shape.
"""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from penjing.errors import CheckpointError
from penjing.files import read_json
from penjing.models.families.family import Family, Stored
from penjing.models.language_model import LanguageModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LISTED = 6  # how many faulty weights a message names


@dataclass(frozen=True)
class _Tensor:
    """A tensor in an open file."""

    file: Any
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> Tensor:
        return self.file.get_tensor(self.name)


def read_weights(
    folder: Path, family: Family, model: LanguageModel, device: torch.device, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Our weights' names to their tensors, from a folder's safetensors files.

    Each has memory of its own, aligned as the processor likes it; the files are mapped, and copied a tensor at a time.

    Args:
        folder: holds `model.safetensors`, or several files and their index.
        family: whose names and layout the files have.
        model: says which weights are needed (it may be on the meta device).
        device: where the tensors go.
        dtype: what they become; None keeps the embedding's.

    Raises:
        CheckpointError: files that are missing or damaged; weights that are missing, unexpected, of another shape, not
            floating-point numbers, or not finite.
    """
    table = family.table(model)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    with ExitStack() as stack:
        held = _open(stack, folder, family, table, device)
        tied_head = held.pop(_head_name(family), None) if model.config.tied else None
        _compare(folder, held, {name: stored.shape(shapes) for name, stored in table.items()})
        embedding = next(held[name] for name, stored in table.items() if stored.names == ("embedding.weight",))
        if tied_head is not None and not torch.equal(tied_head.read().to(FLOATS[embedding.dtype]), embedding.read()):
            raise CheckpointError(f"{folder}: the config ties the head to the embedding, but they differ")
        dtype = dtype or FLOATS[embedding.dtype]
        weights: dict[str, Tensor] = {}
        broken = []
        for name, stored in table.items():
            for ours, view in stored.read(held[name].read(), shapes).items():
                if not view.isfinite().all():
                    broken.append(ours)
                weights[ours] = view.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if broken:
        raise CheckpointError(f"{folder}: NaN or infinity in {_listed(broken)}")
    return weights


def fill(model: LanguageModel, weights: dict[str, Tensor]) -> None:
    """Puts tensors in the place of a model's weights."""
    if model.config.tied:
        weights = {**weights, "head.weight": weights["embedding.weight"]}
    model.load_state_dict(weights, assign=True)
    model.tie()


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX, CheckpointError)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(isinstance(n, str) and Path(n).name == n for n in places.values()):
            raise CheckpointError(f"{folder / INDEX}: 'weight_map' must give a file of this folder for each weight")
        files = [folder / name for name in sorted(set(places.values()))]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise CheckpointError(f"{folder}: the index names files that are missing: {_listed(absent)}")
        return files
    pickles = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(pattern))]
    if pickles:
        raise CheckpointError(
            f"{folder} has its weights in {pickles[0]}, a pickle, which could run any code and is never opened; "
            "save it as safetensors where you trust it (transformers: model.save_pretrained)"
        )
    raise CheckpointError(f"{folder} has no {WEIGHTS}")


def _open(
    stack: ExitStack, folder: Path, family: Family, table: dict[str, Stored], device: torch.device
) -> dict[str, _Tensor]:
    """All tensors of the folder under the names of the table, what holds no weights left out."""
    held: dict[str, _Tensor] = {}
    for path in _weight_files(folder):
        try:
            file = stack.enter_context(safe_open(path, framework="pt", device=str(device)))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or cut short ({error}); copy it again") from None
        for name in file.keys():  # noqa: SIM118 (not a dictionary)
            if any(re.fullmatch(pattern, name) for pattern in family.ignored):
                continue
            known = name if name in table or family.prefix + name not in table else family.prefix + name
            view = file.get_slice(name)
            held[known] = _Tensor(file, name, tuple(view.get_shape()), view.get_dtype())
    return held


def _compare(folder: Path, held: dict[str, _Tensor], wanted: dict[str, tuple[int, ...]]) -> None:
    both = [name for name in wanted if name in held]
    faults = {
        "missing": [name for name in wanted if name not in held],
        "unexpected": [name for name in held if name not in wanted],
        "of another shape than the config says": [
            f"{name} {held[name].shape} for {wanted[name]}" for name in both if held[name].shape != wanted[name]
        ],
        "no floating-point numbers": [
            f"{name} ({held[name].dtype})" for name in both if held[name].dtype not in FLOATS
        ],
    }
    found = [f"{what}: {_listed(names)}" for what, names in faults.items() if names]
    if found:
        raise CheckpointError(f"{folder}: weights do not fit the config. " + "; ".join(found))


def _head_name(family: Family) -> str:
    return next((name for name, ours in family.weights.items() if ours == "head.weight"), "head.weight")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
