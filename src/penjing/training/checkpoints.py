"""Checkpoints: folders that hold all that a run is, so that it goes on as if it had never stopped.

    checkpoints/step-000123/
      model.safetensors, config.json, tokenizer.json, ...   a model folder like any other: `penjing.load` opens it
      optimizer.safetensors   the optimizer's tensors, "parameter name/what"
      random.safetensors      the state of each random generator, as bytes
      trainer.json            step, tokens, seconds, data position, configuration, the size of every other file

A folder takes its name only once all of it is on the disk, so a killed run leaves whole checkpoints and perhaps a
hidden `.partial` one, which is ignored. Nothing is pickled.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penjing.errors import CheckpointError, PenjingError, TrainingError
from penjing.files import atomic_folder, read_json, tidy, write_json
from penjing.models.families import family_of
from penjing.models.folder import load_model, write_into
from penjing.models.language_model import LanguageModel
from penjing.training import randomness

_RECORD = "trainer.json"
_OPTIMIZER = "optimizer.safetensors"
_RANDOM = "random.safetensors"
_WEIGHTS = "model.safetensors"
_KEYS = {"step", "tokens", "seconds", "loss", "validation", "precision", "threads", "data", "identity", "files"}


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    record: Mapping[str, Any]
    """What trainer.json says."""

    @property
    def step(self) -> int:
        """How many steps had been done."""
        return int(self.record["step"])

    @property
    def score(self) -> float | None:
        """The validation score at that step, lower is better; None where there was no validation."""
        return self.record.get("score")

    def load_weights(self, model: nn.Module) -> None:
        """Copies the saved weights into a model of the same shape."""
        load_weights(self.path, model)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> None:
        """Gives each parameter its saved optimizer state; `names` are the optimizer's parameters by name.

        Raises:
            CheckpointError: the state is damaged or of other parameters.
        """
        for key, tensor in _read(self.path / _OPTIMIZER).items():
            name, _, what = key.rpartition("/")
            if name not in names:
                raise CheckpointError(f"{self.path / _OPTIMIZER} has a state for {name}, which this run does not train")
            # a copy of its own: one that lay in the file's memory map could be aligned differently, and then some
            # matrix libraries round differently
            optimizer.state[names[name]][what] = tensor.to(names[name].device, copy=True)

    def load_random(self) -> None:
        """Puts all random generators back to where they were."""
        randomness.restore(_read(self.path / _RANDOM))


class Checkpoints:
    """The checkpoints of one run: the newest few and the best one."""

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None]):
        self.folder = folder
        self.keep = keep
        self._say = say
        self._record_of: dict[Path, Mapping[str, Any]] = {}
        self._damaged: set[Path] = set()

    def save(
        self,
        model: nn.Module,
        tokenizer: Any,
        optimizer: torch.optim.Optimizer,
        names: Mapping[str, Tensor],
        record: Mapping[str, Any],
    ) -> Checkpoint:
        """Writes a checkpoint, then removes those that are neither new nor best.

        Args:
            model: it must hold its float32 weights now.
            tokenizer: saved beside the model, when there is one.
            optimizer: its state is saved.
            names: the optimizer's parameters by name.
            record: what trainer.json shall say: `_KEYS` but the files, and perhaps a `score`.

        Raises:
            TrainingError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        path = self.folder / f"step-{record['step']:06d}"
        try:
            with atomic_folder(path) as temporary:
                save_model(temporary, model, tokenizer)
                _write(temporary / _OPTIMIZER, _optimizer_tensors(optimizer, names))
                _write(temporary / _RANDOM, randomness.capture())
                sizes = {file.name: file.stat().st_size for file in temporary.iterdir()}
                write_json(temporary / _RECORD, {**record, "files": sizes})
        except (PenjingError, OSError) as error:
            before = self.newest()
            kept = f"the last good one is {before.path}" if before else "there is none yet"
            raise TrainingError(
                f"the checkpoint of step {record['step']} could not be written ({error}); {kept}; "
                "free some space and run the same command again to go on from there"
            ) from error
        self._record_of[path] = {**record, "files": sizes}
        self._damaged.discard(path)
        self._prune()
        return Checkpoint(path, self._record_of[path])

    def newest(self) -> Checkpoint | None:
        """The whole checkpoint with the most steps; damaged and half-written ones are passed over, and said."""
        self._tidy()
        return next(reversed(self._whole()), None)

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest validation score."""
        scored = [checkpoint for checkpoint in self._whole() if checkpoint.score is not None]
        return min(scored, key=lambda checkpoint: checkpoint.score or 0.0, default=None)

    def _tidy(self) -> None:
        """Removes what killed runs left half-written, and says so."""
        for path in self.folder.glob(".step-*.partial"):
            self._say(f"{path.name.split('.')[1]} was being written when the run was killed; it is ignored")
        if self.folder.is_dir():
            tidy(self.folder)

    def _whole(self) -> list[Checkpoint]:
        """All that are not damaged, by steps."""
        paths = (path for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
        found = map(self._open, sorted(paths, key=lambda path: int(path.name.removeprefix("step-"))))
        return [checkpoint for checkpoint in found if checkpoint]

    def _open(self, path: Path) -> Checkpoint | None:
        if path in self._damaged:
            return None
        if path not in self._record_of:
            try:
                record = read_json(path / _RECORD, CheckpointError)
                if missing := _KEYS - record.keys():
                    raise CheckpointError(f"{_RECORD} says nothing of {', '.join(sorted(missing))}")
                for name, size in record["files"].items():
                    if (path / name).stat().st_size != size:
                        raise CheckpointError(f"{name} is incomplete")
            except (CheckpointError, OSError, KeyError, TypeError, AttributeError) as error:
                self._say(f"{path} is damaged and ignored: {error}")
                self._damaged.add(path)
                return None
            self._record_of[path] = record
        return Checkpoint(path, self._record_of[path])

    def _prune(self) -> None:
        best = self.best()
        for old in self._whole()[: -self.keep]:
            if not best or old.path != best.path:
                shutil.rmtree(old.path, ignore_errors=True)
                self._record_of.pop(old.path, None)


def save_model(folder: Path, model: nn.Module, tokenizer: Any = None) -> None:
    """Writes a model: a language model as a Hugging Face folder, any other module as its named tensors."""
    if isinstance(model, LanguageModel):
        write_into(folder, model, tokenizer)
    else:
        _write(folder / _WEIGHTS, _tensors(model))


def check_savable(model: nn.Module) -> None:
    """Raises CheckpointError when no checkpoint could hold the model: better before hours of training than after."""
    if isinstance(model, LanguageModel):
        family_of(model.config)


def load_weights(folder: Path, model: nn.Module) -> None:
    """Copies the weights of a saved model into a model of the same shape; the reverse of `save_model`.

    Raises:
        CheckpointError: the weights are damaged, or of another shape.
    """
    if isinstance(model, LanguageModel):
        saved: Mapping[str, Tensor] = load_model(folder).state_dict()
    else:
        saved = _read(folder / _WEIGHTS)
    with torch.no_grad():
        for name, tensor in _tensors(model).items():
            if name not in saved or saved[name].shape != tensor.shape:
                raise CheckpointError(f"{folder} holds another model: the weight {name} is missing or of another shape")
            tensor.copy_(saved[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that are part of the model's state."""
    state = model.state_dict().keys()
    return {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if name in state}


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}/{what}": tensor for name, p in names.items() for what, tensor in optimizer.state[p].items()}


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} could not be written: {error}") from None
    path.chmod(mode)  # safetensors makes files that only their owner can read


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); delete its folder to go on from an earlier checkpoint"
        ) from None
