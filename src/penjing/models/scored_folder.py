"""Scored models on disk: the Hugging Face folder of the language model's family, for transformers' class of it that
scores texts.

    config.json        architectures: ["LlamaForSequenceClassification"], one label, pad_token_id, and `score_offset`
    model.safetensors  the body's weights under the family's names, and `score.weight`, (1, width)

`AutoModelForSequenceClassification` opens it and gives a text the score that `ScoredModel` gives its last token; it
knows nothing of the offset, which it leaves to whoever compares scores with 0. Strict, safe and atomic as `folder` is.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from penjing.errors import CheckpointError
from penjing.files import atomic_folder, write_json
from penjing.models.families import family_named, family_of
from penjing.models.families.family import Family, Fields, Stored
from penjing.models.folder import (
    CONFIG,
    gives_scores,
    keep_other_files,
    named,
    read_values,
    refuse_other_files,
    special_ids,
)
from penjing.models.language_model import LanguageModel
from penjing.models.scored import ScoredModel
from penjing.models.sharding import MAX_SHARD_SIZE, held_in, write_weights
from penjing.models.weights import fill, stream_weights

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer

_SCORE, _OFFSET = "score.weight", "score_offset"
_WRITES_TEXT = re.compile("(ForCausalLM|LMHeadModel|ForConditionalGeneration|Model)$")


def load_scored(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> ScoredModel:
    """The scored model in a folder, ready for inference.

    Args:
        path: the folder.
        device: where the weights go.
        dtype: what they become; None keeps that of the file.

    Raises:
        CheckpointError: the folder is missing, damaged, or no model of one score that Penjing reads.
    """
    folder = Path(path)
    values = read_values(folder)
    place = str(folder / CONFIG)
    fields = Fields(values, place)
    if not gives_scores(values):
        raise CheckpointError(
            f"{folder} holds {values.get('architectures')}, which gives no scores; a reward model is made of it by "
            "a stage of kind 'reward'"
        )
    labels = len(values["id2label"]) if isinstance(values.get("id2label"), dict) else values.get("num_labels", 2)
    if labels != 1:
        raise CheckpointError(f"{place}: a model of {labels} labels; Penjing reads those of one score")
    family = family_named(values.get("model_type"), place)
    with named(folder / CONFIG), torch.device("meta"):
        model = ScoredModel(family.read(fields))
    model.offset = fields.number(_OFFSET, 0.0)
    table = scored_family(family)
    fill(model, dict(stream_weights(folder, held_in(folder), table, model, torch.device(device), dtype)))
    return model.eval()


def save_scored(
    folder: str | Path,
    model: ScoredModel,
    tokenizer: "Tokenizer | None" = None,
    *,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Writes a folder that transformers' `AutoModelForSequenceClassification` opens, whole or not at all.

    Arguments and errors as of `folder.save`. With a tokenizer the config names the padding token, which transformers
    needs to find the last token of each of several texts.
    """
    folder = Path(folder)
    refuse_other_files(folder)
    with atomic_folder(folder) as temporary:
        keep_other_files(folder, temporary, with_tokenizer=tokenizer is None)
        write_scored_into(temporary, model, tokenizer, max_shard_size=max_shard_size)


def write_scored_into(
    folder: Path, model: ScoredModel, tokenizer: "Tokenizer | None" = None, *, max_shard_size: int = MAX_SHARD_SIZE
) -> None:
    """Writes the files of a scored model into a folder that the caller makes appear at once."""
    family = scored_family(family_of(model.config))
    fields = family.expresses(model.config)
    assert fields is not None
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    labels: dict[str, Any] = {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    special = special_ids(tokenizer)
    write_json(
        folder / CONFIG,
        {**fields, **special, **labels, _OFFSET: model.offset, "torch_dtype": dtype, "dtype": dtype},
    )
    if tokenizer is not None:
        tokenizer.save(folder)
    write_weights(folder, model, family.table(model), max_shard_size)


def scored_family(family: Family[LanguageModel.Config]) -> Family[LanguageModel.Config]:
    """A family's table for its scored models: the row of the scores stands where the vocabulary's head stood."""
    weights: dict[str, Stored | str] = {
        name: ours
        for name, ours in family.weights.items()
        if not (ours if isinstance(ours, str) else ours.names[0]).startswith("head.")
    }
    if family.weights:  # else each weight goes by our own name
        weights[_SCORE] = "head.weight"
    architecture = _WRITES_TEXT.sub("ForSequenceClassification", family.architecture)
    if family.model_type == "gemma3_text":  # its language model is called as the one that sees is
        architecture = "Gemma3TextForSequenceClassification"
    return replace(family, architecture=architecture, weights=weights)
