"""Named tensors in safetensors files, their checksums, and copies of them that a file can be written from later."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from penjing.errors import CheckpointError


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now, in memory of their own on the CPU, whatever becomes of the originals."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors under their names, and flushes them to the disk.

    Raises:
        CheckpointError: the file could not be written.
    """
    try:
        path.touch()
        mode = path.stat().st_mode
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, path, None if metadata is None else dict(metadata))
        path.chmod(mode)  # safetensors makes files that only their owner can read
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} could not be written: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, in its memory map.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); delete its folder to go on from an earlier checkpoint"
        ) from None


def digest(file: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def facts(file: Path) -> list[int | str]:
    """Size and SHA-256 of a file, as trainer.json has them."""
    return [file.stat().st_size, digest(file)]
