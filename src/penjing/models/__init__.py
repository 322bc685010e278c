"""Models: the language model by composition, and the families and formats in which it is stored."""

from typing import Any

__all__ = ["LanguageModel", "register"]


def __getattr__(name: str) -> Any:
    if name == "LanguageModel":
        from penjing.models.language_model import LanguageModel

        return LanguageModel
    if name == "register":
        from penjing.models.families.penjing import register

        return register
    raise AttributeError(f"module 'penjing.models' has no attribute '{name}'")
