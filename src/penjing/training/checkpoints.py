"""Checkpoints: folders that hold all that a run is, so that it goes on as if it had never stopped.

    checkpoints/step-000123/
      model.safetensors, config.json, tokenizer.json, ...   a model folder like any other: `penjing.load` opens it
      optimizer.safetensors   the optimizer's tensors, "parameter name/what"
      random.safetensors      the state of each random generator, as bytes
      trainer.json            step, tokens, seconds, data position, configuration, size and SHA-256 of every other file

A folder takes its name only once all of it is on the disk, so a killed run leaves whole checkpoints and perhaps a
hidden `.partial` one, which is ignored. Nothing is pickled.
"""

import hashlib
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
from penjing.training.engine import Engine

RECORD = "trainer.json"
_OPTIMIZER = "optimizer.safetensors"
_RANDOM = "random.safetensors"
_WEIGHTS = "model.safetensors"
PIECES = "pieces"
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

    @property
    def in_pieces(self) -> bool:
        """Whether several processes wrote it, each its own part."""
        return (self.path / PIECES).is_dir()

    def load(self, model: nn.Module, engine: Engine) -> None:
        """Puts everything back to where it was: weights, optimizer and, of a run on one process, random generators.

        Raises:
            CheckpointError: something is damaged, or of another model.
        """
        weights, optimizer = self.tensors(model)
        with engine.weights.held(), torch.no_grad():
            for name, tensor in _tensors(model).items():
                if name not in weights or weights[name].shape != tensor.shape:
                    raise CheckpointError(
                        f"{self.path} holds another model: the weight {name} is missing or of another shape"
                    )
                tensor.copy_(weights[name])
        known = engine.weights.trained
        for key, tensor in optimizer.items():
            name, _, what = key.rpartition("/")
            if name not in known:
                raise CheckpointError(f"{self.path} has an optimizer state for {name}, which this run does not train")
            # a copy of its own: one that lay in the file's memory map could be aligned differently, and then some
            # matrix libraries round differently
            engine.optimizer.state[known[name]][what] = tensor.to(known[name].device, copy=True)
        if (self.path / _RANDOM).exists():
            randomness.restore(_read(self.path / _RANDOM))

    def tensors(self, model: nn.Module) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """The whole weights, by their names in `model`, and the optimizer's tensors, by "name/what"."""
        if self.in_pieces:
            from penjing.training.distributed import pieces

            folder = self.path / PIECES
            return pieces.read_whole(folder, "weights/"), pieces.read_whole(folder, "optimizer/")
        whole = load_model(self.path).state_dict() if isinstance(model, LanguageModel) else _read(self.path / _WEIGHTS)
        return whole, _read(self.path / _OPTIMIZER)

    def export(self, folder: Path, model: nn.Module, tokenizer: Any, dtype: torch.dtype = torch.float32) -> None:
        """Writes the weights as a model folder; `model` is any of their shape, and is filled with them."""
        weights, _ = self.tensors(model)
        with torch.no_grad():
            for name, tensor in _tensors(model).items():
                tensor.copy_(weights[name])
        with atomic_folder(folder) as temporary:
            save_model(temporary, model.to(dtype), tokenizer)

    def check(self) -> None:
        """Reads every file to see whether it is what was written.

        Raises:
            CheckpointError: one is not.
        """
        for name, (_, digest) in self.record["files"].items():
            if _digest(self.path / name) != digest:
                raise CheckpointError(f"{name} is not what was written (its checksum differs)")


class Checkpoints:
    """The checkpoints of one run: the newest few, the best one, and one every so many steps."""

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None], keep_every: int | None = None):
        self.folder = folder
        self.keep, self.keep_every = keep, keep_every
        self._say = say
        self._record_of: dict[Path, Mapping[str, Any]] = {}
        self._damaged: set[Path] = set()

    def save(
        self,
        model: nn.Module,
        tokenizer: Any,
        engine: Engine,
        record: Mapping[str, Any],
    ) -> Checkpoint:
        """Writes a checkpoint, then removes those that are not to be kept.

        Args:
            model: what is trained.
            tokenizer: saved beside the model, when there is one.
            engine: its weights and its optimizer's state are saved.
            record: what trainer.json shall say: `_KEYS` but the files, and perhaps a `score`.

        Raises:
            TrainingError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        path = self.folder / f"step-{record['step']:06d}"
        try:
            self._write(path, model, tokenizer, engine, record)
        except (PenjingError, OSError) as error:
            before = next(reversed(self._whole()), None)
            kept = f"the last good one is {before.path}" if before else "there is none yet"
            raise TrainingError(
                f"the checkpoint of step {record['step']} could not be written ({error}); {kept}; "
                "free some space and run the same command again to go on from there"
            ) from error
        self._record_of.pop(path, None)
        self._damaged.discard(path)
        saved = self._open(path)
        assert saved
        self._prune()
        return saved

    def newest(self) -> Checkpoint | None:
        """The whole checkpoint with the most steps, every file of it read and compared with its checksum.

        Damaged and half-written ones are passed over, and said.
        """
        self._tidy()
        for checkpoint in reversed(self._whole()):
            try:
                checkpoint.check()
                return checkpoint
            except (CheckpointError, OSError) as error:
                self._say(f"{checkpoint.path} is damaged and ignored: {error}")
                self._damaged.add(checkpoint.path)
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest validation score."""
        return self._best()

    def load(self, checkpoint: Checkpoint, model: nn.Module, engine: Engine) -> None:
        """Puts everything back to where it was when the checkpoint was saved."""
        checkpoint.load(model, engine)

    def write_model(self, folder: Path, model: nn.Module, tokenizer: Any, engine: Engine, dtype: torch.dtype) -> None:
        """Writes the trained model as a model folder, in `dtype`."""
        with engine.weights.held(dtype), atomic_folder(folder) as temporary:
            save_model(temporary, model, tokenizer)

    def _write(self, path: Path, model: nn.Module, tokenizer: Any, engine: Engine, record: Mapping[str, Any]) -> None:
        with atomic_folder(path) as temporary, engine.weights.held():
            save_model(temporary, model, tokenizer)
            _write(temporary / _OPTIMIZER, _optimizer_tensors(engine.optimizer, engine.weights.trained))
            _write(temporary / _RANDOM, randomness.capture())
            self._finish(temporary, record)

    def _finish(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Writes the record, once everything else is in the folder."""
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        facts = {file.relative_to(folder).as_posix(): [file.stat().st_size, _digest(file)] for file in files}
        write_json(folder / RECORD, {**record, "files": facts})

    def _best(self) -> Checkpoint | None:
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
                record = read_json(path / RECORD, CheckpointError)
                if missing := _KEYS - record.keys():
                    raise CheckpointError(f"{RECORD} says nothing of {', '.join(sorted(missing))}")
                for name, (size, _) in record["files"].items():
                    if (path / name).stat().st_size != size:
                        raise CheckpointError(f"{name} is incomplete")
            except (CheckpointError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
                self._say(f"{path} is damaged and ignored: {error}")
                self._damaged.add(path)
                return None
            self._record_of[path] = record
        return Checkpoint(path, self._record_of[path])

    def _prune(self) -> None:
        best = self._best()
        for old in self._whole()[: -self.keep]:
            marked = self.keep_every and old.step % self.keep_every == 0
            if not marked and (not best or old.path != best.path):
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


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that are part of the model's state."""
    state = model.state_dict().keys()
    return {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if name in state}


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}/{what}": tensor for name, p in names.items() for what, tensor in optimizer.state[p].items()}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
