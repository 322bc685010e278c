"""Models on disk: Hugging Face folders in and out.

    config.json              what the model is            generation_config.json   how it likes to be sampled
    model.safetensors        its weights (or several)     tokenizer.json, ...      its tokenizer and chat template

Reading is strict: a missing, unexpected or misshapen weight is an error that names it. No pickle is ever opened and no
code that lies in a folder is ever run, whatever its config says. Writing is atomic: a killed run or a full disk leaves
what was there before.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from penjing.errors import CheckpointError, ConfigError
from penjing.files import atomic_folder, read_json, write_json
from penjing.models.families import family_named, family_of
from penjing.models.families.family import Family, Fields
from penjing.models.language_model import LanguageModel
from penjing.models.sharding import MAX_SHARD_SIZE, held_in, old_files, write_weights
from penjing.models.weights import fill, stream_weights

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER_FILES = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|vocab\.txt|tokenizer\.model|.*\.jinja"
)


def load_model(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> LanguageModel:
    """The model in a folder, ready for inference (`model.train()` switches dropout on).

    Args:
        path: the folder.
        device: where the weights go.
        dtype: what they become; None keeps that of the file.

    Raises:
        CheckpointError: the folder is missing, damaged, or not a model that Penjing reads.
    """
    folder = Path(path)
    family, config = _read(folder)
    with named(folder / CONFIG), torch.device("meta"):
        model = config.build()
    fill(model, dict(stream_weights(folder, held_in(folder), family, model, torch.device(device), dtype)))
    return model.eval()


@torch.no_grad()
def fill_from(path: str | Path, model: LanguageModel) -> None:
    """Fills a model of `read_config(path)` with the folder's weights, a tensor at a time, whatever memory they are in.

    Errors as of `load_model`.
    """
    folder = Path(path)
    family, _ = _read(folder)
    weights = dict(model.named_parameters())
    for name, tensor in stream_weights(folder, held_in(folder), family, model, torch.device("cpu"), torch.float32):
        weights[name].copy_(tensor)


def load_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer in a folder. Raises TokenizerError when there is no readable one."""
    from penjing.tokenizer import Tokenizer

    return Tokenizer.load(path)


def read_config(path: str | Path) -> LanguageModel.Config:
    """What the model in a folder is, without its weights. Errors as of `load_model`."""
    return _read(Path(path))[1]


def _read(folder: Path) -> tuple[Family, LanguageModel.Config]:
    values = read_values(folder)
    if gives_scores(values):
        raise CheckpointError(
            f"{folder} holds a model that scores texts and writes none; "
            "penjing.models.scored_folder.load_scored reads it"
        )
    family = family_named(values.get("model_type"), str(folder / CONFIG))
    with named(folder / CONFIG):
        return family, family.read(Fields(values, str(folder / CONFIG))).resolved()


def read_values(folder: Path) -> dict[str, Any]:
    """The fields of a folder's `config.json`.

    Raises:
        CheckpointError: there is no such folder or file, it is damaged, or of quantized weights.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no model at {folder}")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is no model folder: it has no {CONFIG}")
    with named(folder / CONFIG):
        values = read_json(folder / CONFIG, CheckpointError)
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder / CONFIG}: an object is needed")
    if values.get("quantization_config"):
        raise CheckpointError(f"{folder}: its weights are quantized ('quantization_config'); Penjing reads floats only")
    return values


def gives_scores(values: Mapping[str, Any]) -> bool:
    """Whether the fields of a config are of a class of transformers' that scores texts."""
    classes = values.get("architectures")
    return isinstance(classes, list) and any(str(name).endswith("ForSequenceClassification") for name in classes)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Names the config in whatever goes wrong when its model is built: sizes that do not fit, or beyond all memory.

    Raises:
        CheckpointError: in place of ConfigError and of what numbers that cannot be meant lead to.
    """
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (ArithmeticError, ValueError, RuntimeError) as fault:
        raise CheckpointError(f"{path}: no model can be built by it ({fault})") from fault


def read_generation(folder: str | Path) -> dict[str, Any]:
    """The folder's `generation_config.json`; empty when it has none."""
    path = Path(folder) / GENERATION
    values = read_json(path, CheckpointError) if path.is_file() else {}
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: an object is needed")
    return values


def save(
    folder: str | Path,
    model: LanguageModel,
    tokenizer: "Tokenizer | None" = None,
    *,
    generation: Mapping[str, Any] | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Writes a Hugging Face folder, whole or not at all.

    An older model there is replaced; the folder's other files stay, a tokenizer too when none is given.

    Args:
        folder: where to; made when missing.
        model: its weights are written in their own dtype.
        tokenizer: written too, and its special tokens named in the config.
        generation: sampling preferences for `generation_config.json`.
        max_shard_size: bytes; a larger model is written as several files and their index.

    Raises:
        CheckpointError: the folder holds files but no model, or cannot be written.
    """
    folder = Path(folder)
    refuse_other_files(folder)
    with atomic_folder(folder) as temporary:
        keep_other_files(folder, temporary, with_tokenizer=tokenizer is None)
        write_into(temporary, model, tokenizer, generation=generation, max_shard_size=max_shard_size)


def refuse_other_files(folder: Path, mark: str = CONFIG, what: str = "model") -> None:
    """Raises CheckpointError when a folder holds files, but not the `mark` of what may be written over."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise CheckpointError(f"{folder} holds files but no {what}; save to a new or empty folder")


def write_into(
    folder: Path,
    model: LanguageModel,
    tokenizer: "Tokenizer | None" = None,
    *,
    generation: Mapping[str, Any] | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Writes the files of a model into a folder that the caller makes appear at once (a trainer's checkpoint, say)."""
    describe_into(folder, model.config, model.embedding.weight.dtype, tokenizer, generation=generation)
    write_weights(folder, model, family_of(model.config).table(model), max_shard_size)


def describe_into(
    folder: Path,
    config: LanguageModel.Config,
    dtype: torch.dtype,
    tokenizer: "Tokenizer | None" = None,
    *,
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Writes all of a model's files but its weights, which are of `dtype`."""
    fields = family_of(config).expresses(config)
    assert fields is not None
    special = special_ids(tokenizer)
    name = str(dtype).removeprefix("torch.")
    write_json(folder / CONFIG, {**fields, **special, "torch_dtype": name, "dtype": name, "use_cache": True})
    ends = {"eos_token_id": _end_ids(tokenizer)} if tokenizer is not None else {}
    write_json(folder / GENERATION, {**special, **ends, **(generation or {})})
    if tokenizer is not None:
        tokenizer.save(folder)


def special_ids(tokenizer: "Tokenizer | None") -> dict[str, int | None]:
    """A config's fields that name special tokens.

    Explicit nulls: left out, transformers would put a family's own defaults in their place.
    """
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_id", None) for name in ("bos", "eos", "pad")}


def _end_ids(tokenizer: "Tokenizer") -> list[int] | int | None:
    """What ends generation: the document's end and, for a chat model, the assistant's turn's end."""
    ids = sorted(tokenizer.stop_ids, key=lambda id: (id != tokenizer.eos_id, id))
    return ids if len(ids) > 1 else next(iter(ids), None)


def keep_other_files(old: Path, new: Path, *, with_tokenizer: bool) -> None:
    """Copies what is no part of the model that is replaced."""
    if not old.is_dir():
        return
    replaced = {CONFIG, GENERATION, *old_files(old)}
    for item in old.iterdir():
        if item.name not in replaced and (with_tokenizer or not TOKENIZER_FILES.fullmatch(item.name)):
            (shutil.copytree if item.is_dir() else shutil.copy2)(item, new / item.name)
