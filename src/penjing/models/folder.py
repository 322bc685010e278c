"""Models on disk: Hugging Face folders in and out.

    config.json              what the model is            generation_config.json   how it likes to be sampled
    model.safetensors        its weights                  tokenizer.json, ...      its tokenizer

Reading is strict: a missing, unexpected or misshapen weight is an error that names it, and no pickle is ever opened.
Writing is atomic: a killed run or a full disk leaves what was there before.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from penjing.errors import CheckpointError, ConfigError
from penjing.files import atomic_folder, read_json, write_json
from penjing.models import llama2c
from penjing.models.families import family_named, family_of
from penjing.models.families.family import Family, Fields
from penjing.models.language_model import LanguageModel
from penjing.models.weights import WEIGHTS, fill, read_weights

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"
MODEL_FILES = re.compile(r"(generation_)?config\.json|.*\.safetensors(\..*)?")
TOKENIZER_FILES = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|tokenizer\.model|.*\.jinja"
)


def load(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[LanguageModel, "Tokenizer"]:
    """The model and the tokenizer of a folder (or of a llama2.c `.bin` file).

    Args:
        path: where the model is.
        tokenizer: where its tokenizer is, when that is elsewhere.
        device: where the weights go.
        dtype: what they become; None keeps that of the file.

    Raises:
        CheckpointError: the folder is missing, damaged, or not a model that Penjing reads.
        TokenizerError: there is no readable tokenizer.
    """
    model = load_model(path, device=device, dtype=dtype)
    return model, load_tokenizer(path, model.config.vocab, tokenizer)


def load_model(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> LanguageModel:
    """The model alone, ready for inference (`model.train()` switches dropout on). Arguments and errors as of `load`."""
    place = Path(path)
    if place.is_file():
        return llama2c.load_model(place, device=device, dtype=dtype)
    family, config = read_config(place)
    with named(place / CONFIG), torch.device("meta"):
        model = config.build()
    fill(model, read_weights(place, family, model, torch.device(device), dtype))
    return model.eval()


def load_tokenizer(path: str | Path, vocab: int, tokenizer: str | Path | None = None) -> "Tokenizer":
    """The tokenizer of a model with `vocab` tokens: at `tokenizer`, else with the model. Errors as of `load`."""
    from penjing.tokenizer import Tokenizer

    place = Path(path)
    if tokenizer is None:
        tokenizer = llama2c.tokenizer_beside(place, vocab) if place.is_file() else place
    found = Tokenizer.load(tokenizer)
    if found.vocab_size > vocab:
        raise CheckpointError(
            f"the tokenizer {tokenizer} has {found.vocab_size} tokens, the model {path} only {vocab}; "
            "they do not belong together"
        )
    return found


def read_config(folder: str | Path) -> tuple[Family, LanguageModel.Config]:
    """What the model in a folder is, without its weights."""
    folder = Path(folder)
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
    family = family_named(values.get("model_type"), str(folder / CONFIG))
    with named(folder / CONFIG):
        return family, family.read(Fields(values, str(folder / CONFIG))).resolved()


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
) -> None:
    """Writes a Hugging Face folder, whole or not at all.

    An older model there is replaced; the folder's other files stay, a tokenizer too when none is given.

    Args:
        folder: where to; made when missing.
        model: its weights are written in their own dtype.
        tokenizer: written too, and its special tokens named in the config.
        generation: sampling preferences for `generation_config.json`.

    Raises:
        CheckpointError: the folder holds files but no model, or cannot be written.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} holds files but no model; save to a new or empty folder")
    with atomic_folder(folder) as temporary:
        _keep_other_files(folder, temporary, [MODEL_FILES] if tokenizer is None else [MODEL_FILES, TOKENIZER_FILES])
        write_into(temporary, model, tokenizer, generation=generation)


def write_into(
    folder: Path,
    model: LanguageModel,
    tokenizer: "Tokenizer | None" = None,
    *,
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Writes the files of a model into a folder that the caller makes appear at once (a trainer's checkpoint, say)."""
    family = family_of(model.config)
    fields = family.expresses(model.config)
    assert fields is not None
    special = _special_ids(tokenizer)
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    write_json(folder / CONFIG, {**fields, **special, "torch_dtype": dtype, "dtype": dtype, "use_cache": True})
    ends = {"eos_token_id": _end_ids(tokenizer)} if tokenizer is not None else {}
    write_json(folder / GENERATION, {**special, **ends, **(generation or {})})
    weights = dict(model.named_parameters())
    tensors = {name: stored.write(weights).cpu() for name, stored in family.table(model).items()}
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS} could not be written: {error}") from None
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors makes files that only their owner can read
    if tokenizer is not None:
        tokenizer.save(folder)


def _special_ids(tokenizer: "Tokenizer | None") -> dict[str, int | None]:
    """Explicit nulls: left out, transformers would put a family's own defaults in their place."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_id", None) for name in ("bos", "eos", "pad")}


def _end_ids(tokenizer: "Tokenizer") -> list[int] | int | None:
    """What ends generation: the document's end and, for a chat model, the assistant's turn's end."""
    ids = [id for id in (tokenizer.eos_id, tokenizer.end_of_turn_id) if id is not None]
    distinct = list(dict.fromkeys(ids))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)


def _keep_other_files(old: Path, new: Path, replaced: list[re.Pattern[str]]) -> None:
    for item in old.iterdir() if old.is_dir() else ():
        if not any(pattern.fullmatch(item.name) for pattern in replaced):
            (shutil.copytree if item.is_dir() else shutil.copy2)(item, new / item.name)
