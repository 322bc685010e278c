"""The families that Penjing reads and writes. A new one is a file with a table, and a line here."""

from typing import Any

from penjing.errors import CheckpointError
from penjing.models.families.family import Family
from penjing.models.families.gpt2 import GPT2
from penjing.models.families.llama import LLAMA
from penjing.models.families.penjing import PENJING
from penjing.models.families.qwen3 import QWEN3
from penjing.models.language_model import LanguageModel

FAMILIES: dict[str, Family] = {family.model_type: family for family in (LLAMA, QWEN3, GPT2, PENJING)}


def family_named(model_type: Any, place: str = "config.json") -> Family:
    """The family of a `model_type`.

    Raises:
        CheckpointError: there is none; the message lists those that there are.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise CheckpointError(f"{place}: 'model_type' is {model_type!r}; Penjing reads {known}")
    return FAMILIES[model_type]


def family_of(config: LanguageModel.Config) -> Family:
    """The first family that expresses a composition; Penjing's own expresses all that can be written down.

    Raises:
        CheckpointError: not even Penjing's own does.
    """
    for family in FAMILIES.values():
        if family.expresses(config) is not None:
            return family
    raise CheckpointError(
        "no model folder can hold this model: its config, written down and read again, is another; the fields of a "
        "layer of one's own must be numbers, texts, other configs or tuples of these, as their annotations say"
    )
