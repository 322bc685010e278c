"""A tokenizer of 256 bytes and three special tokens, so that tests can count tokens by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from penjing.data import shards
from penjing.data.shards import Shards
from penjing.tokenizer.bpe import BytePairModel
from penjing.tokenizer.tokenizer import Tokenizer

EOS = 256


BYTES = BytePairModel([bytes([byte]) for byte in range(256)], [], "penjing")
"""A model without merges: the ids are the bytes of the text."""


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.around(BYTES)  # <|endoftext|> 256, <|im_start|> 257, <|im_end|> 258; ChatML


@pytest.fixture
def shards_of(tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., Shards]:
    """Makes shards of texts or id arrays in a folder of their own."""

    def make(documents: Sequence, name: str = "shards", **options) -> Shards:
        return shards.write(documents, tokenizer, tmp_path / name, **options)

    return make
