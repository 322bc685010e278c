"""The state of every random generator that training can draw from, as bytes that a checkpoint can hold."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from penjing.errors import CheckpointError


def seed_everything(seed: int) -> None:
    """Starts Python's, numpy's and PyTorch's generators from one seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture() -> dict[str, Tensor]:
    """The state of all generators, each a tensor of bytes."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "python": _bytes(np.array([version, *words], dtype=np.uint64)),
        "python_gauss": _bytes(np.array([] if gauss is None else [gauss], dtype=np.float64)),
        "numpy": _bytes(np.array([*keys, position, has_gauss], dtype=np.uint64)),
        "numpy_gauss": _bytes(np.array([cached], dtype=np.float64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore(states: dict[str, Tensor]) -> None:
    """Puts all generators back to a captured state; those of devices that are absent here are skipped.

    Raises:
        CheckpointError: the bytes are not such a state.
    """
    try:
        version, *words = _numbers(states["python"], np.uint64).tolist()
        gauss = _numbers(states["python_gauss"], np.float64).tolist()
        random.setstate((version, tuple(words), gauss[0] if gauss else None))
        *keys, position, has_gauss = _numbers(states["numpy"], np.uint64).tolist()
        cached = float(_numbers(states["numpy_gauss"], np.float64)[0])
        np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
        torch.set_rng_state(states["torch"])
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint's random state is damaged ({error}); use an earlier checkpoint"
        ) from None
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda{index}"], index)
    if torch.backends.mps.is_available() and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def preserved() -> Iterator[None]:
    """What is drawn within leaves no trace: the generators go back to where they were."""
    states = capture()
    try:
        yield
    finally:
        restore(states)


def _bytes(values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Tensor:
    return torch.from_numpy(np.frombuffer(values.tobytes(), dtype=np.uint8).copy())


def _numbers(state: Tensor, dtype: type[np.generic]) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    return np.frombuffer(state.numpy().tobytes(), dtype=dtype)
