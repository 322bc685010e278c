"""Batches as plain JSON and back, bit for bit: what a checkpoint must hold of a rollout that is not all learned from.

    {"rewards": {"dtype": "float32", "shape": [64], "bytes": "eJx..."}, "origin": "rollout 3, part 1", ...}

A tensor is its bytes, compressed, in base64: JSON has no number that is sure to come back as the same float32.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from penjing.alignment.batch import AnswerBatch
from penjing.errors import DataError

B = TypeVar("B", bound=AnswerBatch)

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, torch.int64, torch.bool)
}
_MOST_BYTES = 1 << 32


def to_json(batch: AnswerBatch) -> dict[str, Any]:
    """A batch as plain JSON."""
    return {field.name: _written(getattr(batch, field.name)) for field in fields(batch)}


def from_json(kind: type[B], value: Mapping[str, Any]) -> B:
    """The batch that `to_json` wrote.

    Raises:
        DataError: it is not one of that kind.
    """
    names = {field.name for field in fields(kind)}
    if not isinstance(value, Mapping) or set(value) != names:
        raise DataError(f"this is no saved {kind.__name__}")
    try:
        return kind(**{name: _read(item) for name, item in value.items()})
    except (KeyError, TypeError, ValueError, zlib.error, binascii.Error):
        raise DataError(f"a saved {kind.__name__} is damaged") from None


def _written(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return dict(value) if isinstance(value, Mapping) else value
    array = value.detach().cpu().contiguous()
    packed = base64.b64encode(zlib.compress(array.numpy().tobytes(), 1)).decode()
    return {"dtype": str(array.dtype).removeprefix("torch."), "shape": list(array.shape), "bytes": packed}


def _read(value: Any) -> Any:
    if not isinstance(value, Mapping) or "bytes" not in value:
        return value
    dtype = _DTYPES[value["dtype"]]
    count = int(np.prod(value["shape"], dtype=np.int64))
    size = count * dtype.itemsize
    if not 0 <= size <= _MOST_BYTES:
        raise ValueError(f"{size} bytes")
    unpacker = zlib.decompressobj()
    raw = bytearray(unpacker.decompress(base64.b64decode(value["bytes"], validate=True), size + 1))
    if len(raw) != size:
        raise ValueError(f"{len(raw)} bytes, not {size}")
    return (
        torch.frombuffer(raw, dtype=dtype).reshape(value["shape"]) if raw else torch.empty(value["shape"], dtype=dtype)
    )
