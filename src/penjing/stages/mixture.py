"""Mixtures: a pretraining on several sets of shards, each with its share of the rows.

    [pretrain.mixture]
    web = 7                       # a shards stage of this recipe
    books = 2
    "shards/code" = 1             # a folder that `penjing data shard --validation` made

Instruction tuning mixes conversations in the same words: files or folders of them, or world stages, whose dialogues
are meant. A path is what has a slash or a suffix in it.

Shares are weights, in any unit. After any number of rows each source is within one row of its share, and a source that
has been gone through begins anew in another order. Validation reads each source's held-out text by the same shares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penjing.errors import ConfigError, nearest
from penjing.files import read_json
from penjing.recipe import Stage, Workshop
from penjing.stages.data import Shards, World

if TYPE_CHECKING:
    from penjing.data import shards
    from penjing.tokenizer import Tokenizer


@dataclass(frozen=True)
class Mixed:
    """Sets of shards, open, and their shares."""

    train: "list[shards.Shards]"
    held_out: "list[shards.Shards]"
    shares: tuple[float, ...]
    """Of each set; they add up to 1."""

    @classmethod
    def open(cls, folders: Mapping[Path, float], tokenizer: "Tokenizer") -> "Mixed":
        """Opens `train/` and `validation/` in each folder that has a share.

        Raises:
            DataError: one is missing, damaged, or was written with another tokenizer.
        """
        from penjing.data.shards import Shards as Tokens

        used = {folder: weight for folder, weight in folders.items() if weight}
        train, held_out = (
            [Tokens.open(folder / side, tokenizer) for folder in used] for side in ("train", "validation")
        )
        return cls(train, held_out, tuple(weight / sum(used.values()) for weight in used.values()))


def folders_of(workshop: Workshop, mixture: Mapping[str, float]) -> dict[Path, float]:
    """Where the sources of a mixture lie, with their weights; without a mixture, the latest shards stage.

    Raises:
        ConfigError: a name is neither that of a shards stage before this one nor a folder.
    """
    if not mixture:
        return {workshop.made_by(Shards): 1.0}
    before = _before(workshop)
    found = {}
    for name, weight in mixture.items():
        if name not in before and not Path(name).is_dir():
            raise ConfigError(
                f"[{workshop.folder.name}] mixes '{name}', which is neither a shards stage before it nor a folder"
                f"{nearest(name, before)}"
            )
        found[workshop.root / name if name in before else Path(name)] = weight
    return found


def conversations_of(workshop: Workshop, mixture: Mapping[str, float]) -> dict[str | Path, float]:
    """Where the conversations of a mixture lie, with their weights, those of weight 0 left out.

    Raises:
        ConfigError: a name is neither that of a world stage before this one nor a path.
    """
    before = _before(workshop, World)
    found: dict[str | Path, float] = {}
    for name, weight in mixture.items():
        if name not in before and not is_path(name):
            raise ConfigError(
                f"[{workshop.folder.name}] mixes '{name}', which is neither a world stage before it nor a path (write "
                f"./{name} for a folder){nearest(name, before)}"
            )
        if weight:
            found[workshop.root / name / "dialogues.jsonl" if name in before else name] = weight
    return found


def is_path(name: str) -> bool:
    """Whether a name in a mixture of conversations is that of a file or folder."""
    return "/" in name or "\\" in name or bool(Path(name).suffix)


def outside(workshop: Workshop, mixture: Mapping[str, float]) -> list[Any] | None:
    """What tells the shards that no stage of this recipe made from any others; None where there are none."""
    before = _before(workshop)
    folders = [Path(name) for name in mixture if name not in before]
    headers = [path for folder in folders for path in sorted(folder.glob("*/header.json"))]
    return [[str(path), read_json(path)] for path in headers] or None


def _before(workshop: Workshop, kind: type[Stage] = Shards) -> list[str]:
    names = list(workshop.recipe.stages)
    before = names[: names.index(workshop.folder.name)] if workshop.folder.name in names else names
    return [name for name in before if isinstance(workshop.recipe.stages[name], kind)]
