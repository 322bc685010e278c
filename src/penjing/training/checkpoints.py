"""Checkpoints: folders that hold all that a run is, so that it goes on as if it had never stopped.

    checkpoints/step-000123/
      model.safetensors, config.json, tokenizer.json, ...   a model folder like any other: `penjing.load` opens it
      optimizer.safetensors   the optimizer's tensors, "parameter name/what"
      random.safetensors      the state of each random generator, as bytes
      trainer.json            format, step, tokens, seconds, data position, configuration, each file's size and SHA-256

A checkpoint is written while training goes on: all tensors are copied into memory, which takes a small part of the time
that a disk takes, and a thread writes the copies. So a save needs as much memory as the weights and the optimizer's
state have together, once: the next save waits for the one before. What fails in the thread stops the run at its next
step.

A folder takes its name only once all of it is on the disk, so a killed run leaves whole checkpoints and perhaps a
hidden `.partial` one, which is ignored. Nothing is pickled.
"""

import copy
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import CheckpointError, PenjingError, TrainingError
from penjing.files import atomic_folder, read_json, tidy
from penjing.models.folder import load_model, read_config
from penjing.models.language_model import LanguageModel
from penjing.models.weights import fill
from penjing.training import randomness
from penjing.training.engine import Engine
from penjing.training.saving import (
    RECORD,
    begun,
    finish,
    named_tensors,
    optimizer_tensors,
    save_held,
    save_model,
    saved_tensors,
)
from penjing.training.tensor_files import copies, digest, read_tensors, write_tensors

PIECES = "pieces"
FORMAT = 1
"""The number of what is described above; raised when an older Penjing could no longer read it."""
_OPTIMIZER = "optimizer.safetensors"
_RANDOM = "random.safetensors"
_KEYS = {"step", "tokens", "seconds", "loss", "validation", "precision", "threads", "data", "identity", "files"}


class NewerFormat(CheckpointError):
    """A checkpoint that a newer Penjing wrote, in a format that this one does not know."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    record: Mapping[str, Any]
    """What trainer.json says."""

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """The checkpoint in a folder; that its files are all there is seen, their content is not read (see `check`).

        Raises:
            NewerFormat: this Penjing is too old for it.
            CheckpointError: it is no checkpoint, or a part of it is missing.
        """
        record = read_json(path / RECORD, CheckpointError)
        try:
            known = record.get("format", FORMAT)
            if known > FORMAT:
                writer = record.get("penjing", "of another version")
                raise NewerFormat(
                    f"{path} is a checkpoint of format {known}, written by Penjing {writer}; "
                    f"this Penjing reads formats up to {FORMAT}: update it, or choose another folder"
                )
            if missing := _KEYS - record.keys():
                raise CheckpointError(f"{RECORD} says nothing of {', '.join(sorted(missing))}")
            for name, (size, _) in record["files"].items():
                if not (path / name).is_file():
                    raise CheckpointError(f"{name} is missing")
                if (path / name).stat().st_size != size:
                    raise CheckpointError(f"{name} is incomplete")
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{RECORD} is no record of a checkpoint ({error})") from None
        return cls(path, record)

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
            for name, tensor in named_tensors(model).items():
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
            randomness.restore(read_tensors(self.path / _RANDOM))

    def tensors(self, model: nn.Module) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """The whole weights, by their names in `model`, and the optimizer's tensors, by "name/what"."""
        if self.in_pieces:
            from penjing.training.distributed import pieces

            folder = self.path / PIECES
            return pieces.read_whole(folder, "weights/"), pieces.read_whole(folder, "optimizer/")
        return saved_tensors(self.path, model), read_tensors(self.path / _OPTIMIZER)

    def language_model(
        self, config: LanguageModel.Config | None = None, dtype: torch.dtype | None = None
    ) -> LanguageModel:
        """The model alone, by whomever it was saved.

        Args:
            config: what the model is; None for what the checkpoint says.
            dtype: what its weights become; None keeps float32.

        Raises:
            CheckpointError: the checkpoint is damaged, or of something else than a language model.
        """
        if not self.in_pieces:
            return load_model(self.path, dtype=dtype)
        from penjing.training.distributed import pieces

        with torch.device("meta"):
            model = (config or read_config(self.path)).build()
        weights = pieces.read_whole(self.path / PIECES, "weights/")
        try:
            fill(model, {name: tensor.to(dtype or tensor.dtype) for name, tensor in weights.items()})
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"{self.path} does not hold the model that it describes: {error}") from None
        return model.eval()

    def check(self) -> None:
        """Reads every file to see whether it is what was written.

        Raises:
            CheckpointError: one is not.
        """
        for name, (_, written) in self.record["files"].items():
            if digest(self.path / name) != written:
                raise CheckpointError(f"{name} is not what was written (its checksum differs)")


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that is being written."""

    checkpoint: Checkpoint
    done: "Future[None]"


class Checkpoints:
    """The checkpoints of one run: the newest few, the best one, and one every so many steps."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        say: Callable[[str], None],
        keep_every: int | None = None,
        background: bool = True,
    ):
        """Prepares them.

        Args:
            folder: where they lie.
            keep: how many of the newest to keep, besides the best.
            say: tells the user something.
            keep_every: keep those whose steps are a multiple of this, too.
            background: write while training goes on, from copies; else training waits, and no memory is needed.
        """
        self.folder = folder
        self.keep, self.keep_every = keep, keep_every
        self._say = say
        self._background = background
        self._known: dict[Path, Checkpoint] = {}
        self._damaged: set[Path] = set()
        self._pending: _Pending | None = None
        self._saved: Checkpoint | None = None

    def save(
        self,
        model: nn.Module,
        tokenizer: Any,
        engine: Engine,
        record: Mapping[str, Any],
    ) -> None:
        """Begins to write a checkpoint of how things are now, once the one before is whole; `settled` tells the end.

        Args:
            model: what is trained.
            tokenizer: saved beside the model, when there is one.
            engine: its weights and its optimizer's state are saved.
            record: what trainer.json shall say: `_KEYS` but the files, and perhaps a `score`.

        Raises:
            TrainingError: this one or the one before could not be written; earlier checkpoints are untouched.
        """
        self.settled(wait=True)
        record = {"format": FORMAT, **copy.deepcopy(record)}
        path = self.folder / f"step-{record['step']:06d}"
        work = self._prepare(path, model, tokenizer, engine, record)
        self._pending = _Pending(Checkpoint(path, record), begun(work, self._background))
        self.settled(wait=not self._background)

    def settled(self, wait: bool = False) -> Checkpoint | None:
        """The newest checkpoint that this run has written whole, after removing those that are not to be kept.

        Args:
            wait: until what is being written is whole.

        Raises:
            TrainingError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        pending = self._pending
        if pending is None or not (wait or pending.done.done()):
            return self._saved
        wait_for([pending.done])  # a second Ctrl-C gets out of here, and leaves it pending
        self._pending = None
        try:
            pending.done.result()
        except (PenjingError, OSError) as error:
            before = next(reversed(self._whole()), None)
            kept = f"the last good one is {before.path}" if before else "there is none yet"
            raise TrainingError(
                f"the checkpoint of step {pending.checkpoint.step} could not be written ({error}); {kept}; "
                "free some space and run the same command again to go on from there"
            ) from error
        self._known.pop(pending.checkpoint.path, None)
        self._damaged.discard(pending.checkpoint.path)
        self._saved = pending.checkpoint
        self._prune()
        return self._saved

    def close(self) -> None:
        """Waits for what is being written, when a run ends by an error; a failure here is only said."""
        if self._pending and not self._pending.done.done():
            self._say(f"the checkpoint of step {self._pending.checkpoint.step} is still being written; ending after it")
        try:
            self.settled(wait=True)
        except Exception as error:  # the run ends by another one already
            self._say(str(error))

    def newest(self) -> Checkpoint | None:
        """The whole checkpoint with the most steps, every file of it read and compared with its checksum.

        Damaged and half-written ones are passed over, and said.

        Raises:
            NewerFormat: there are checkpoints of a newer Penjing.
        """
        self._tidy()
        return self.sound()

    def sound(self, best: bool = False) -> Checkpoint | None:
        """As `newest`, or the one with the lowest validation score; changes nothing in the folder.

        So it can be asked while a run writes there.
        """
        order = sorted(self._scored(), key=_score) if best else reversed(self._whole())
        for checkpoint in order:
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

    def _prepare(
        self, path: Path, model: nn.Module, tokenizer: Any, engine: Engine, record: Mapping[str, Any]
    ) -> Callable[[], None]:
        """Takes what there is to write, as it is now; the result writes it."""
        masters = engine.weights.all
        weights = self._kept({name: masters.get(name, tensor) for name, tensor in named_tensors(model).items()})
        optimizer = self._kept(optimizer_tensors(engine.optimizer, engine.weights.trained))
        random = randomness.capture()

        def write() -> None:
            with atomic_folder(path) as temporary:
                save_held(temporary, model, weights, tokenizer)
                write_tensors(temporary / _OPTIMIZER, optimizer)
                write_tensors(temporary / _RANDOM, random)
                finish(temporary, record)

        return write

    def _kept(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return copies(tensors) if self._background else {name: tensor.detach() for name, tensor in tensors.items()}

    def _best(self) -> Checkpoint | None:
        return min(self._scored(), key=_score, default=None)

    def _scored(self) -> list[Checkpoint]:
        return [checkpoint for checkpoint in self._whole() if checkpoint.score is not None]

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
        if path not in self._known:
            try:
                self._known[path] = Checkpoint.open(path)
            except NewerFormat:
                raise
            except CheckpointError as error:
                self._say(f"{path} is damaged and ignored: {error}")
                self._damaged.add(path)
                return None
        return self._known[path]

    def _prune(self) -> None:
        best = self._best()
        for old in self._whole()[: -self.keep]:
            marked = self.keep_every and old.step % self.keep_every == 0
            if not marked and (not best or old.path != best.path):
                shutil.rmtree(old.path, ignore_errors=True)
                self._known.pop(old.path, None)


def _score(checkpoint: Checkpoint) -> float:
    return checkpoint.score or 0.0
