"""Byte-pair encoding: the algorithm, to be read; and the model of text that is made of it.

**Learning.** Text is a sequence of bytes, the first 256 tokens. Again and again the most frequent pair of neighbours
becomes a new token, wherever it stands. `train` does just that; on the chunks of a tiny corpus, with how often each
occurs:

    >>> words = {b"hug": 10, b"pug": 5, b"pun": 12, b"bun": 4, b"hugs": 5}
    >>> [b"".join(pair) for pair in train(words, merges=3)]
    [b'ug', b'un', b'hug']

`u g` occurs 10 + 5 + 5 = 20 times, more than any other pair; then `u n` 16 times; then `h ug` 15 times.

**Encoding.** The pairs are merged in the order in which they were learnt, the leftmost first:

    >>> pairs = train(words, merges=3)
    >>> order = {pair: rank for rank, pair in enumerate(pairs)}
    >>> encode_chunk(b"hugpun", order)
    [b'hug', b'p', b'un']

**Ties.** Of pairs that are equally frequent the one with the smaller left id goes first, then the one with the
smaller right id. Ids: the 256 bytes in the order of `BYTE_ORDER` (printable ones first), then tokens as they are
learnt. This is the rule of Hugging Face `tokenizers`, so both learn the same merges from the same text.

**One way to make a token.** The same bytes are never learnt twice, from two different pairs. Up to the moment at which
a token is made, no merge has crossed its ends; so what happened between them depended on its bytes alone, and was the
same wherever they stood. (`merging` relies on this.)

Compiled versions of both functions, `merging` and `encoding`, do the work; these are what they are tested against.

Sources: Gage, "A New Algorithm for Data Compression", 1994; Sennrich, Haddow, Birch, "Neural Machine Translation of
Rare Words with Subword Units", 2016, arXiv:1508.07909, algorithm 1; over bytes: Radford et al., "Language Models are
Unsupervised Multitask Learners", 2019, section 2.2.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penjing.errors import TokenizerError, nearest
from penjing.tokenizer.encoding import FastEncoder
from penjing.tokenizer.patterns import SplitPattern
from penjing.tokenizer.scan import chunk_ends, utf8
from penjing.tokenizer.tables import NO_TOKEN, merges_of_ranks

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = bytes(_PRINTABLE + [byte for byte in range(256) if byte not in _PRINTABLE])
"""All bytes, the printable ones (as Latin-1) first: the order in which GPT-2 numbers them."""
BYTE_TO_CHARACTER = {
    byte: chr(byte) if place < len(_PRINTABLE) else chr(256 + place - len(_PRINTABLE))
    for place, byte in enumerate(BYTE_ORDER)
}
"""How GPT-2's files and tokenizer.json write a byte: itself if printable, else a letter from U+0100 on."""
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}

Pair = tuple[bytes, bytes]
NormalForm = Literal["NFC", "NFD", "NFKC", "NFKD"]


def train(words: Mapping[bytes, int], merges: int) -> list[Pair]:
    """Learns up to `merges` merges from chunks and how often each occurs; fewer when no pair is left."""
    ids = {bytes([byte]): place for place, byte in enumerate(BYTE_ORDER)}
    chunks = [([bytes([byte]) for byte in word], count) for word, count in words.items()]
    learnt: list[Pair] = []
    while len(learnt) < merges:
        frequency: Counter[Pair] = Counter()
        for symbols, count in chunks:
            for pair in pairwise(symbols):
                frequency[pair] += count
        if not frequency:
            break
        best = min(frequency, key=lambda pair: (-frequency[pair], ids[pair[0]], ids[pair[1]]))
        learnt.append(best)
        ids[best[0] + best[1]] = len(ids)
        chunks = [(merge_pair(symbols, best), count) for symbols, count in chunks]
    return learnt


def merge_pair(symbols: list[bytes], pair: Pair) -> list[bytes]:
    """`symbols` with each occurrence of `pair` joined, from left to right.

    >>> merge_pair([b"a", b"a", b"a", b"b"], (b"a", b"a"))
    [b'aa', b'a', b'b']
    """
    merged: list[bytes] = []
    place = 0
    while place < len(symbols):
        if place + 1 < len(symbols) and (symbols[place], symbols[place + 1]) == pair:
            merged.append(symbols[place] + symbols[place + 1])
            place += 2
        else:
            merged.append(symbols[place])
            place += 1
    return merged


def encode_chunk(chunk: bytes, order: Mapping[Pair, int]) -> list[bytes]:
    """The tokens of one chunk: merges the pair that is first in `order`, the leftmost of equals, until none is left."""
    symbols = [bytes([byte]) for byte in chunk]
    while True:
        places = [(order[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in order]
        if not places:
            return symbols
        _, place = min(places)
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]


class BytePairModel:
    """Byte-level BPE: tokens, and which pairs of them merge in which order.

        BytePairModel(tokens, merges, pattern)         # merges: rows (left id, right id, merged id), the first first
        BytePairModel(tokens, None, pattern)           # tiktoken's rule: see `merges`
        BytePairModel.from_ranks(ranks, pattern)       # the same from a dictionary of bytes to id

    Args:
        tokens: the bytes of each id, `b""` for an id that is no token of the model (a gap, a special token's id).
        merges: in order of priority; or None: any two tokens whose bytes joined are a token merge, and the smaller its
            id the sooner.
        pattern: how text is split first: a name in `patterns.PATTERNS`, a regular expression, several of them to be
            applied one after another, or a `SplitPattern`.
        whole_chunks: a chunk that is a token is that token, whatever its merges would give (tokenizer.json's
            `ignore_merges`; tiktoken does it always).
        normalization: None or one of unicodedata's forms ("NFC"), applied before splitting.

    Raises:
        TokenizerError: the pattern is unknown or a merge names an id that is no token.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: ArrayLike | None,
        pattern: str | Sequence[str] | SplitPattern,
        *,
        whole_chunks: bool = False,
        normalization: str | None = None,
    ):
        self.tokens = list(tokens)
        self.pattern = SplitPattern.of(pattern)
        self.whole_chunks = whole_chunks
        if normalization is not None and normalization not in get_args(NormalForm):
            forms = get_args(NormalForm)
            raise TokenizerError(f"there is no normal form '{normalization}'{nearest(normalization, forms)}")
        self.normalization = cast(NormalForm | None, normalization)
        self.by_id = merges is None
        self._merges = None if merges is None else np.asarray(merges, dtype=np.int32).reshape(-1, 3)
        if self._merges is not None and self._merges.size:
            low, high = int(self._merges.min()), int(self._merges.max())
            if low < 0 or high >= len(self.tokens):
                bad = low if low < 0 else high
                raise TokenizerError(f"a merge names id {bad}, but the model's tokens are 0 to {len(self.tokens) - 1}")

    @classmethod
    def from_ranks(
        cls,
        ranks: Mapping[bytes, int],
        pattern: str | Sequence[str] | SplitPattern,
        *,
        normalization: str | None = None,
    ) -> "BytePairModel":
        """A model from tiktoken's ranks: each token's bytes with its id."""
        tokens = [b""] * (max(ranks.values(), default=-1) + 1)
        for token, number in ranks.items():
            tokens[number] = token
        return cls(tokens, None, pattern, whole_chunks=True, normalization=normalization)

    def __repr__(self) -> str:
        return f"BytePairModel({len(self.tokens)} tokens, pattern={self.pattern.name or self.pattern.expressions})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_encoder"}  # rebuilt where needed

    @cached_property
    def merges(self) -> NDArray[np.int32]:
        """Rows (left id, right id, merged id) in order of priority, shape `(merges, 3)`."""
        return self._merges if self._merges is not None else merges_of_ranks(self.tokens)

    @cached_property
    def _encoder(self) -> FastEncoder:
        return FastEncoder(self.tokens, self._merges, whole=self.whole_chunks)

    def encode(self, text: str, *, at_start: bool = True) -> NDArray[np.int32]:
        """The ids of `text`, shape `(tokens,)`. A lone surrogate is read as U+FFFD. `at_start` makes no difference.

        Raises:
            TokenizerError: the vocabulary lacks a byte of the text.
        """
        if self.normalization is not None:
            text = unicodedata.normalize(self.normalization, text)
        return self.encode_bytes(utf8(text))

    def normalize(self, text: str, *, at_start: bool = True) -> str:
        """`text` as its tokens spell it: normalized, lone surrogates as U+FFFD. `at_start` makes no difference."""
        if self.normalization is not None:
            text = unicodedata.normalize(self.normalization, text)
        return utf8(text).decode()

    def encode_bytes(self, data: bytes) -> NDArray[np.int32]:
        """The ids of UTF-8 text, or of any other bytes: `decode_bytes` gives exactly them again. Not normalized."""
        array = np.frombuffer(data, dtype=np.uint8)
        ids = self._encoder.encode(array, chunk_ends(self.pattern, array, np.array([len(array)])))
        if len(ids) and int(ids.max()) == NO_TOKEN:
            raise TokenizerError("the text holds a byte that this vocabulary has no token for")
        return ids

    def decode_bytes(self, ids: Sequence[int], *, at_start: bool = True) -> bytes:
        """The bytes that `ids` stand for. `at_start` makes no difference."""
        tokens = self.tokens
        return b"".join([tokens[number] for number in ids])

    def sections(self) -> dict[str, Any]:
        """This model's part of a tokenizer.json."""
        names = ["".join(map(BYTE_TO_CHARACTER.__getitem__, token)) for token in self.tokens]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        splits: list[dict[str, Any]] = [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
            for expression in self.pattern.expressions
        ]
        return {
            "normalizer": {"type": self.normalization} if self.normalization else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": self.whole_chunks,
                "vocab": {name: number for number, name in enumerate(names) if name},
                "merges": [[names[left], names[right]] for left, right, _ in self.merges.tolist()],
            },
        }
