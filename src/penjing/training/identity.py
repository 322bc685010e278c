"""What makes a run the run it is. A checkpoint remembers it, and a resume that differs is refused by name."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from penjing.errors import TrainingError


def describe(value: Any) -> Any:
    """A configuration as plain JSON: dataclasses by class name and fields, functions by name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__qualname__.removesuffix(".Config"), **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [describe(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, functools.partial):
        return {"function": describe(value.func), "given": [*describe(value.args), describe(value.keywords)]}
    return getattr(value, "__qualname__", None) or type(value).__qualname__  # no address in memory, which would change


def describe_model(model: nn.Module) -> dict[str, Any]:
    """A model's configuration, the shapes of its weights, and which of them are trained."""
    weights = [[name, list(p.shape), p.requires_grad] for name, p in model.named_parameters()]
    digest = hashlib.sha256(json.dumps(weights).encode()).hexdigest()[:16]
    return {
        "class": type(model).__name__,
        "config": describe(getattr(model, "config", None)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights": digest,
    }


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Lets a run go on only as what it was.

    Raises:
        TrainingError: something differs; each difference is named.
    """
    differ = differences(before, now)
    if differ:
        raise TrainingError(
            f"{folder} holds another run: {'; '.join(differ)}. "
            "Undo the change to go on with it, or choose another folder"
        )


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Each place where two descriptions differ, as `name was X, is now Y`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys((*before, *now))
        return [d for key in keys for d in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [d for i, (b, n) in enumerate(zip(before, now, strict=True)) for d in differences(b, n, f"{name}[{i}]")]
    return [] if before == now else [f"{name} was {_short(before)}, is now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
