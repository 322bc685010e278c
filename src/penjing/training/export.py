"""Which checkpoint a user means, and what of it makes a model folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from penjing.errors import CheckpointError, ConfigError
from penjing.models.folder import CONFIG
from penjing.training.checkpoints import Checkpoint, Checkpoints, NewerFormat
from penjing.training.saving import RECORD

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer


def find_checkpoint(source: Path, best: bool, say: Callable[[str], None]) -> Checkpoint:
    """The checkpoint of a language model at `source`, every file of it compared with its checksum; nothing is changed.

    Args:
        source: a checkpoint, a run, or the `checkpoints` folder of a run.
        best: of a run, the one with the lowest validation loss, not the newest.
        say: tells of those that are damaged and passed over.

    Raises:
        CheckpointError: there is none, it is damaged, or of something else than a language model.
        ConfigError: the best of one was asked for.
    """
    try:
        if (source / RECORD).is_file():
            if best:
                raise ConfigError(f"{source} is one checkpoint; the best is chosen among those of a run")
            found = _sound(source)
        else:
            found = _of_run(source, best, say)
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror}") from None
    if not (found.path / CONFIG).is_file():
        why = (
            "an older Penjing wrote it; go on with the run, and export the next one"
            if found.in_pieces
            else "only language models can be exported"
        )
        raise CheckpointError(f"{found.path} has no {CONFIG}: {why}")
    return found


def refuse_inside(target: Path, checkpoint: Checkpoint) -> None:
    """Raises ConfigError when `target` lies where the run keeps its checkpoints: writing there would damage them."""
    kept = checkpoint.path.resolve()
    if target.resolve() in (kept.parent, kept) or kept in target.resolve().parents:
        raise ConfigError(f"{target} is where the run keeps its checkpoints; export to another place")


def tokenizer_in(folder: Path) -> "Tokenizer | None":
    """The tokenizer that was saved with a checkpoint; None where the run had none."""
    from penjing.models.folder import load_tokenizer

    return load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None


def _sound(path: Path) -> Checkpoint:
    try:
        checkpoint = Checkpoint.open(path)
        checkpoint.check()
    except NewerFormat:
        raise
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); export another checkpoint of its run") from None
    return checkpoint


def _of_run(source: Path, best: bool, say: Callable[[str], None]) -> Checkpoint:
    folder = source if any(source.glob("step-*")) else source / "checkpoints"
    if not folder.is_dir():
        raise CheckpointError(_hint(source))
    checkpoints = Checkpoints(folder, keep=1, say=say)
    found = checkpoints.sound(best)
    if found is None and best and checkpoints.sound():
        raise CheckpointError(f"no checkpoint of {source} was validated, so none is the best; leave out --best")
    if found is None:
        raise CheckpointError(f"{source} has no whole checkpoint")
    return found


def _hint(source: Path) -> str:
    if not source.is_dir():
        return f"there is no folder {source}"
    if (source / CONFIG).is_file():
        return f"{source} is a model already, no run and no checkpoint; `penjing convert` writes it in another format"
    stages = sorted(path.parent.name for path in source.glob("*/checkpoints"))
    if stages:
        return f"{source} holds several runs ({', '.join(stages)}); name one, such as {source / stages[-1]}"
    return f"{source} is no run (it has no checkpoints/) and no checkpoint (no {RECORD})"
