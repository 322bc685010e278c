"""SentencePiece BPE with byte fallback: the tokenizer of Llama 1 and 2, Mistral 7B and their kin.

Byte-level BPE cuts text into words and merges bytes. SentencePiece does neither: a space becomes the visible character
U+2581 (▁), a dummy one is put before the text so that a word looks the same at its start and in its middle, and merging
begins with characters. A character that the vocabulary does not have falls back to the pieces <0x00> to <0xFF>, one for
each of its UTF-8 bytes, so that nothing is ever unknown.

    "Hello 盆"  ->  ▁Hello▁盆  ->  ▁ H e l l o ▁ 盆  ->  ▁Hello ▁ <0xE7> <0x9B> <0x86>

Merging: of all neighbours that together are a piece, those with the best score join first, the leftmost of equals,
until no two neighbours are a piece. A heap of candidates makes that O(n log n).

A merge never joins two characters that stand side by side in no piece, so the text is cut there first: exact, and the
cuts are mostly words, whose ids are then remembered.

Source: Kudo and Richardson, "SentencePiece", 2018, arXiv:1808.06226; Sennrich, Haddow, Birch, "Neural Machine
Translation of Rare Words with Subword Units", 2015, arXiv:1508.07909, section 3.2.
Departs from it: no normalization but the identity, no unknown piece (byte fallback is required), and bytes that are no
character decode to one U+FFFD for each maximal part of one, as in every other tokenizer here, not one for each byte.
"""

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import regex
from numpy.typing import NDArray

from penjing.errors import TokenizerError

SPACE = "▁"
_CACHE_ENTRIES = 1 << 17
_CACHE_LENGTH = 32
"""Longer chunks are merged each time: they seldom come twice."""


@dataclass(frozen=True)
class Prefix:
    """When the dummy space is put before a text."""

    where: Literal["always", "first", "never"] = "always"
    """Before every stretch of text between special tokens, before the first one only, or before none."""
    before_space: bool = True
    """Whether a text that begins with a space gets one more (SentencePiece does, tokenizers' Metaspace does not)."""


class SentencePieceModel:
    """Text to ids by SentencePiece's BPE; a `TextModel`.

    Args:
        pieces: the text of each id with ▁ for a space; "" for ids that text cannot give (control pieces, gaps).
        merges: for each pair of neighbours that may join, its priority: the lowest joins first.
        byte_ids: the ids of the 256 byte pieces; `pieces` has "" or their names there, neither matters.
        user_defined: pieces that are cut out of the text, its dummy space included, before anything merges.
        prefix: when the dummy space is put before a text.

    Raises:
        TokenizerError: when there are not 256 byte pieces.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        merges: Mapping[tuple[str, str], int],
        byte_ids: Sequence[int],
        *,
        user_defined: Sequence[str] = (),
        prefix: Prefix = Prefix(),
    ):
        if len(set(byte_ids)) != 256 or min(byte_ids) < 0:
            raise TokenizerError("a SentencePiece model needs byte fallback: one piece for each of the 256 bytes")
        self.byte_ids = list(byte_ids)
        self.merges = dict(merges)
        self.user_defined = tuple(user_defined)
        self.prefix = prefix
        bytes_of = {number: bytes([byte]) for byte, number in enumerate(byte_ids)}
        self.pieces = ["" if number in bytes_of else piece for number, piece in enumerate(pieces)]
        self._ids = {piece: number for number, piece in enumerate(self.pieces) if piece}
        self.tokens: Sequence[bytes] = [
            bytes_of.get(number) or piece.replace(SPACE, " ").encode() for number, piece in enumerate(self.pieces)
        ]
        self._cache: dict[str, list[int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}

    # text to ids

    def encode(self, text: str, *, at_start: bool = True) -> NDArray[np.int32]:
        """The ids of `text`, shape `(tokens,)`. `at_start` is False for text that follows other tokens.

        A lone surrogate is read as U+FFFD.
        """
        text = self.normalize(text, at_start=at_start).replace(" ", SPACE)
        ids: list[int] = []
        position = 0
        for match in self._user_defined_finder.finditer(text) if self.user_defined else ():
            ids += self._encode_plain(text[position : match.start()])
            ids.append(self._ids[match.group()])
            position = match.end()
        ids += self._encode_plain(text[position:])
        return np.array(ids, dtype=np.int32)

    def normalize(self, text: str, *, at_start: bool = True) -> str:
        """`text` as its tokens spell it: with the dummy space before it, where there is one; surrogates as U+FFFD."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        where = self.prefix.where
        wanted = text and (where == "always" or (where == "first" and at_start))
        if wanted and (self.prefix.before_space or text[0] not in (" ", SPACE)):
            text = " " + text
        return text

    def _encode_plain(self, text: str) -> list[int]:
        joinable = self._joinable
        ids: list[int] = []
        start = 0
        for end, pair in enumerate(itertools.pairwise(text), 1):
            if pair not in joinable:
                ids += self._encode_chunk(text[start:end])
                start = end
        return ids + self._encode_chunk(text[start:])

    def _encode_chunk(self, chunk: str) -> list[int]:
        ids = self._cache.get(chunk)
        if ids is None:
            ids = [number for symbol in self._merge(list(chunk)) for number in self._ids_of_symbol(symbol)]
            if len(chunk) <= _CACHE_LENGTH and len(self._cache) < _CACHE_ENTRIES:
                self._cache[chunk] = ids
        return ids

    def _ids_of_symbol(self, symbol: str) -> list[int]:
        number = self._ids.get(symbol)
        if number is not None:
            return [number]
        return [self.byte_ids[byte] for byte in symbol.encode()]

    def _merge(self, symbols: list[str]) -> list[str]:
        """Joins neighbours, best first, until none can join; `symbols` is used up (joined ones become "")."""
        merges = self.merges
        before = list(range(-1, len(symbols) - 1))
        after = [*range(1, len(symbols)), -1]
        heap: list[tuple[int, int, int]] = []  # priority, left neighbour, length of both: shorter than now if outdated

        def consider(left: int, right: int) -> None:
            priority = merges.get((symbols[left], symbols[right]))
            if priority is not None:
                heapq.heappush(heap, (priority, left, len(symbols[left]) + len(symbols[right])))

        for left in range(len(symbols) - 1):
            consider(left, left + 1)
        while heap:
            _, left, length = heapq.heappop(heap)
            right = after[left]
            if not symbols[left] or right < 0 or len(symbols[left]) + len(symbols[right]) != length:
                continue
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
                consider(left, after[left])
            if before[left] >= 0:
                consider(before[left], left)
        return [symbol for symbol in symbols if symbol]

    @cached_property
    def _joinable(self) -> set[tuple[str, str]]:
        """Pairs of characters that stand side by side in some piece that merging can give."""
        joined = {left + right for left, right in self.merges}
        return {pair for piece in joined for pair in itertools.pairwise(piece)}

    @cached_property
    def _user_defined_finder(self) -> "regex.Pattern[str]":
        longest_first = sorted(self.user_defined, key=lambda piece: (-len(piece), piece))
        return regex.compile("|".join(map(regex.escape, longest_first)))

    # ids to text

    def decode_bytes(self, ids: Sequence[int], *, at_start: bool = True) -> bytes:
        """The bytes of `ids`, without the dummy space when they begin the text."""
        content = b"".join([self.tokens[number] for number in ids])
        dummy = at_start and ids and self.prefix.where != "never" and self.pieces[ids[0]].startswith(SPACE)
        return content[1:] if dummy else content

    # as tokenizer.json

    def sections(self) -> dict[str, Any]:
        """This model's part of a tokenizer.json, in the form that Llama 2's has.

        Raises:
            TokenizerError: the model cuts user-defined pieces out of the text after it has put the dummy space before
                it, or merges characters that are no pieces; a tokenizer.json cannot say that.
        """
        if self.user_defined:
            raise TokenizerError(
                f"a tokenizer.json cannot hold user-defined pieces ({self.user_defined[0]!r}, ...) together with the "
                "spaces around them as SentencePiece reads them; keep the SentencePiece file"
            )
        unknown = {half for pair in self.merges for half in pair} - self._ids.keys()
        if unknown:
            raise TokenizerError(
                f"a tokenizer.json cannot hold merges of {min(unknown)!r}, which is not a piece itself"
            )
        vocabulary = dict(self._ids)
        vocabulary |= {f"<0x{byte:02X}>": number for byte, number in enumerate(self.byte_ids)}
        by_priority = sorted(self.merges, key=lambda pair: self.merges[pair])
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            "merges": [list(pair) for pair in by_priority],
        }
        return self._spaces() | {"model": model}

    def _spaces(self) -> dict[str, Any]:
        """The parts of a tokenizer.json that put ▁ in and take it out."""
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": self.prefix.where, "split": False}
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        prepend = [{"type": "Prepend", "prepend": SPACE}] if self.prefix.where == "always" else []
        by_metaspace = self.prefix.where != "never" and not self.prefix.before_space
        decoders: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if self.prefix.where != "never":
            decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        return {
            "normalizer": None if by_metaspace else {"type": "Sequence", "normalizers": [*prepend, replace]},
            "pre_tokenizer": metaspace if by_metaspace else None,
            "decoder": {"type": "Sequence", "decoders": decoders},
        }


def merges_of_scores(scores: Mapping[str, float]) -> dict[tuple[str, str], int]:
    """Every pair of neighbours that joins to a piece, with its priority: 0 for the best score, equal for equals.

    A half is itself a piece, or one character: merging starts with characters, known or not.
    """
    order = {score: rank for rank, score in enumerate(sorted(set(scores.values()), reverse=True))}
    merges: dict[tuple[str, str], int] = {}
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if (left in scores or cut == 1) and (right in scores or len(right) == 1):
                merges[left, right] = order[score]
    return merges
