"""Text to ids and back: byte-level BPE, its training, chat templates, and the file formats that others use."""

from typing import TYPE_CHECKING, Any

__all__ = ["ChatTemplate", "IncrementalDecoder", "Tokenizer"]

if TYPE_CHECKING:
    from penjing.tokenizer.chat import ChatTemplate
    from penjing.tokenizer.stream import IncrementalDecoder
    from penjing.tokenizer.tokenizer import Tokenizer


def __getattr__(name: str) -> Any:
    if name == "Tokenizer":
        from penjing.tokenizer.tokenizer import Tokenizer

        return Tokenizer
    if name == "ChatTemplate":
        from penjing.tokenizer.chat import ChatTemplate

        return ChatTemplate
    if name == "IncrementalDecoder":
        from penjing.tokenizer.stream import IncrementalDecoder

        return IncrementalDecoder
    raise AttributeError(f"module 'penjing.tokenizer' has no attribute '{name}'")
