"""What a vocabulary does to text: how many bytes a token holds, script by script.

A token costs the model one step whatever it holds. A vocabulary learnt from English spends three or more tokens on a
Chinese character and a quarter of one on an English letter; these figures show it before any training does.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

from penjing.tokenizer.scan import utf8
from penjing.tokenizer.tokenizer import Tokenizer

SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Chinese": r"\p{Han}",
    "Kana": r"[\p{Hiragana}\p{Katakana}]",
    "Hangul": r"\p{Hangul}",
    "Cyrillic": r"\p{Cyrillic}",
    "Greek": r"\p{Greek}",
    "Arabic": r"\p{Arabic}",
    "Hebrew": r"\p{Hebrew}",
    "Devanagari": r"\p{Devanagari}",
    "Thai": r"\p{Thai}",
    "digits": r"\p{N}",
    "spaces": r"\s",
}
"""Scripts by name, each with the expression of its characters; what belongs to none is punctuation and signs."""
OTHER = "signs"

_RUNS = regex.compile("|".join(f"( ?{expression}+)" for expression in SCRIPTS.values()))

ENGLISH = (
    "When the rain stopped, the old gardener carried the little pine out to the terrace. It was sixty years old and no "
    "taller than his hand. Every spring he looked at it for a long time before he cut a single twig."
)
CHINESE = (
    "雨停了，老园丁把那棵小松树搬到露台上。它已经六十岁了，却还没有他的手掌高。"
    "每年春天，他总要端详很久，才肯剪下一根细枝。"
)
"""The same story in two languages, for a first look at a vocabulary without any text at hand."""


@dataclass
class Usage:
    """What a tokenizer made of the characters of one script."""

    bytes: int = 0
    """Their UTF-8 bytes."""
    characters: int = 0
    """How many there are."""
    tokens: int = 0
    """How many tokens end in one of them."""

    @property
    def bytes_per_token(self) -> float:
        """How much text one step of the model covers; 0 without tokens."""
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_character(self) -> float:
        """What a character costs; 0 without characters."""
        return self.tokens / self.characters if self.characters else 0.0


def usage(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, Usage]:
    """Bytes, characters and tokens of `texts` by script; the most bytes first.

    A space before a word counts with the word, as it does in a vocabulary. A token that holds characters of several
    scripts counts for the one it ends in. `total` of the values is exact.
    """
    lengths = np.array([len(tokenizer.token_bytes(number)) for number in range(tokenizer.vocab_size)], dtype=np.int64)
    found: dict[str, Usage] = {}
    for text in texts:
        spelt = tokenizer.model.normalize(text)
        ids = tokenizer.encode_array(text)
        places = np.cumsum(lengths[ids])  # where each token ends, in bytes of `spelt`
        names, ends, characters = _runs(spelt)
        owner = np.minimum(np.searchsorted(ends, places - 1, side="right"), len(names) - 1) if names else None
        tokens = np.bincount(owner, minlength=len(names)) if owner is not None else np.zeros(0, dtype=np.int64)
        start = 0
        for name, end, many, made in zip(names, ends.tolist(), characters, tokens.tolist(), strict=True):
            entry = found.setdefault(name, Usage())
            entry.bytes += end - start
            entry.characters += many
            entry.tokens += made
            start = end
    return dict(sorted(found.items(), key=lambda item: -item[1].bytes))


def total(parts: Iterable[Usage]) -> Usage:
    """The sum."""
    whole = Usage()
    for part in parts:
        whole.bytes += part.bytes
        whole.characters += part.characters
        whole.tokens += part.tokens
    return whole


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """How many tokens of the vocabulary are of each script (by their last character); the most first.

    Tokens that are no whole characters count as `bytes`, special ones as `special`.
    """
    found: dict[str, int] = {}
    for number in range(tokenizer.vocab_size):
        token = tokenizer.token_bytes(number)
        if not token:
            name = "special"
        else:
            try:
                names, _, _ = _runs(token.decode())
                name = names[-1]
            except UnicodeDecodeError:
                name = "bytes"
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _runs(text: str) -> tuple[list[str], NDArray[np.int64], list[int]]:
    """The runs of one script in `text`: their names, where each ends in bytes, and how many characters each has."""
    names: list[str] = []
    sizes: list[int] = []
    characters: list[int] = []
    known = list(SCRIPTS)

    def add(name: str, run: str) -> None:
        names.append(name)
        sizes.append(len(utf8(run)))
        characters.append(len(run))

    position = 0
    for match in _RUNS.finditer(text):
        if match.start() > position:
            add(OTHER, text[position : match.start()])
        add(known[match.lastindex - 1], match.group())
        position = match.end()
    if position < len(text):
        add(OTHER, text[position:])
    return names, np.cumsum(np.array(sizes, dtype=np.int64)), characters
