"""Encoders on disk: Hugging Face folders, and what sentence-transformers adds to them.

    config.json, model.safetensors, tokenizer.json (or vocab.txt)     the encoder
    modules.json                    the steps to a text's vector: the encoder, pooling, scaling to length 1
    1_Pooling/config.json           of which tokens' vectors it is made
    sentence_bert_config.json       how many tokens of a text are read

A folder without modules.json gets `Pooling`'s usual: the mean, scaled. A step that is not understood is an error, for a
text's vector that is almost right is near the wrong texts. Strict, safe and atomic as `folder` is.

Source: huggingface/sentence-transformers, whose files these are.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from penjing.errors import CheckpointError
from penjing.files import atomic_folder, read_json, write_json
from penjing.models.encoder import Encoder, MaskedHead, Pooling
from penjing.models.families import bert, encoder_family_named
from penjing.models.families.family import Fields
from penjing.models.folder import CONFIG, keep_other_files, named, read_values, refuse_other_files
from penjing.models.sharding import held_in, write_weights
from penjing.models.weights import fill, stream_weights

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer

MODULES, SENTENCE, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
_MODES: dict[str, Literal["mean", "first"]] = {"mean": "mean", "cls": "first"}
_OLDER_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def load_encoder(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Encoder, "Tokenizer"]:
    """The encoder and the tokenizer of a folder, ready for `penjing.embed`.

    Args:
        path: a folder with a BERT or a sentence encoder made of one.
        device: where the weights go.
        dtype: what they become; None keeps that of the file.

    Raises:
        CheckpointError: the folder is missing, damaged, not an encoder that Penjing reads, or makes texts' vectors in a
            way that it does not.
        TokenizerError: there is no readable tokenizer.
    """
    from penjing.tokenizer import Tokenizer

    folder = Path(path)
    family = encoder_family_named(read_values(folder).get("model_type"), str(folder / CONFIG))
    tokenizer = Tokenizer.load(folder)
    with named(folder / CONFIG):
        config = family.read(Fields(read_values(folder), str(folder / CONFIG)))
    if tokenizer.vocab_size > config.vocab:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the encoder only {config.vocab}; "
            "they do not belong together"
        )
    held = bert.by_todays_names(held_in(folder))
    config = bert.parts_in(config, held)
    with named(folder / CONFIG), torch.device("meta"):
        encoder = config.build()
    fill(encoder, dict(stream_weights(folder, held.items(), family, encoder, torch.device(device), dtype)))
    encoder.pooling = read_pooling(folder, config.context)
    return encoder.eval(), tokenizer


def save_encoder(folder: str | Path, encoder: Encoder, tokenizer: "Tokenizer | None" = None) -> None:
    """Writes a folder that transformers and sentence-transformers open, whole or not at all.

    An older encoder there is replaced; the folder's other files stay, a tokenizer too when none is given.

    Args:
        folder: where to; made when missing.
        encoder: its weights are written in their own dtype.
        tokenizer: written too.

    Raises:
        CheckpointError: the folder holds files but no model, the encoder is none that BERT's config can describe, or
            it cannot be written.
    """
    folder = Path(folder)
    refuse_other_files(folder)
    fields = _fields_of(encoder.config)
    if fields is None:
        raise CheckpointError("no model folder can hold this encoder: it is not composed as BERT is")
    dtype = str(encoder.embedding.weight.dtype).removeprefix("torch.")
    pad = tokenizer.pad_id if tokenizer is not None else None
    with atomic_folder(folder) as temporary:
        keep_other_files(folder, temporary, with_tokenizer=tokenizer is None)
        write_json(temporary / CONFIG, {**fields, "pad_token_id": pad or 0, "torch_dtype": dtype, "dtype": dtype})
        write_weights(temporary, encoder, bert.table(encoder))
        _write_pooling(temporary, encoder)
        if tokenizer is not None:
            tokenizer.save(temporary)


def _fields_of(config: Encoder.Config) -> dict[str, Any] | None:
    """The config.json of a composition; which parts its weights have besides, that does not say."""
    block = config.layers[0] if config.layers else None
    usual = MaskedHead.Config(config.norm, getattr(getattr(block, "mlp", None), "activation", "gelu"))
    fields = bert.BERT.expresses(replace(config, pooler=False, head=config.head or usual))
    if fields is None:
        return None
    return fields | {"architectures": ["BertModel" if config.head is None else "BertForMaskedLM"]}


def read_pooling(folder: Path, context: int) -> Pooling:
    """How a folder makes one vector of a text's many.

    Args:
        folder: of an encoder.
        context: the longest text that the encoder can read.

    Raises:
        CheckpointError: a file is damaged, or asks for a step that Penjing does not know.
    """
    longest = _longest(folder, context)
    modules = _json(folder / MODULES)
    if modules is None:
        return Pooling(longest=longest)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{folder / MODULES}: a list of objects is needed")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{folder / MODULES}: the steps are {', '.join(kinds) or 'none'}; Penjing reads Transformer, Pooling and, "
            "perhaps, Normalize"
        )
    place = str(modules[1].get("path"))
    if Path(place).name != place:
        raise CheckpointError(f"{folder / MODULES}: {place!r} is not the name of a folder in this one")
    return Pooling(_mode(folder / place / CONFIG), unit=len(kinds) == 3, longest=longest)


def _mode(file: Path) -> Literal["mean", "first"]:
    config = _json(file)
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} is missing, or no object; it says how tokens are pooled")
    chosen = config.get("pooling_mode") or [mode for field, mode in _OLDER_MODES.items() if config.get(field)]
    chosen = chosen if isinstance(chosen, list) else [chosen]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise CheckpointError(f"{file}: tokens are pooled by {chosen}; Penjing knows 'mean' and 'cls'")
    return _MODES[chosen[0]]


def _longest(folder: Path, context: int) -> int:
    """How many tokens of a text are read, both ends included: the context, or less by the files beside the encoder."""
    settings = {name: _json(folder / name) or {} for name in (SENTENCE, PROMPTS, "tokenizer_config.json")}
    wrong = next((name for name, values in settings.items() if not isinstance(values, dict)), None)
    if wrong is not None:
        raise CheckpointError(f"{folder / wrong}: an object is needed")
    if settings[PROMPTS].get("default_prompt_name"):
        raise CheckpointError(f"{folder / PROMPTS}: texts begin with a prompt ('default_prompt_name'); not read yet")
    given = settings[SENTENCE].get("max_seq_length") or settings["tokenizer_config.json"].get("model_max_length")
    if given is None:
        return context
    if not isinstance(given, int | float) or given < 1:
        raise CheckpointError(f"{folder}: texts of at most {given!r} tokens ('max_seq_length') cannot be meant")
    return int(min(given, context))


def _write_pooling(folder: Path, encoder: Encoder) -> None:
    pooling, package = encoder.pooling, "sentence_transformers.models"
    steps = ["Transformer", "Pooling", *(["Normalize"] if pooling.unit else [])]
    modules = [
        {"idx": place, "name": str(place), "path": f"{place}_{step}" if place else "", "type": f"{package}.{step}"}
        for place, step in enumerate(steps)
    ]
    write_json(folder / MODULES, modules)
    mode = next(theirs for theirs, ours in _MODES.items() if ours == pooling.of)
    flags = {field: theirs == mode for field, theirs in _OLDER_MODES.items()}
    write_json(folder / "1_Pooling" / CONFIG, {"word_embedding_dimension": encoder.config.width, **flags})
    longest = encoder.config.context if pooling.longest is None else pooling.longest
    write_json(folder / SENTENCE, {"max_seq_length": longest, "do_lower_case": False})


def _json(file: Path) -> Any:
    return read_json(file, CheckpointError) if file.is_file() else None
