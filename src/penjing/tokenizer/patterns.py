r"""Split patterns: how text is cut into chunks before byte-pair encoding, so that no token ever crosses a cut.

A pattern is a regular expression whose matches, from left to right, are the chunks. All of these give a word the space
before it, keep letters, digits, punctuation and white space apart, and leave the last space of a run to the next word:

    gpt2      "it's  2024!"  ->  "it" "'s" " " " 2024" "!"
    cl100k    "it's  2024!"  ->  "it" "'s" " " " " "202" "4" "!"       (GPT-4; at most three digits)
    qwen      "it's  2024!"  ->  "it" "'s" " " " " "2" "0" "2" "4" "!" (digits one by one, which helps arithmetic)
    o200k     "itsMe"        ->  "its" "Me"                            (GPT-4o; capitals begin a chunk)

Sources: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2 (gpt2); tiktoken's
published encodings (cl100k, o200k); the tokenizer.json of Llama 3 and of Qwen 2.

Departs from them: `\p{L}` and its kin mean Unicode 16.0, the version in tiktoken and tokenizers, whatever version the
installed `regex` knows, so that a text has the same ids everywhere. Any other pattern is run by `regex`, as it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import regex

from penjing.errors import TokenizerError, nearest

_CONTRACTION = r"'(?i:[sdmt]|ll|ve|re)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_OTHER = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_OTHER}|\s++$|{_SPACES}",
    "llama3": rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_OTHER}|{_SPACES}",
    "o200k": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+(?:{_CONTRACTION})?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*(?:{_CONTRACTION})?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    ),
    "qwen": rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_OTHER}|{_SPACES}",
    "penjing": rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_OTHER}|{_SPACES}",
}

GPT2, CL100K, O200K = 0, 1, 2


@dataclass(frozen=True)
class Rules:
    """What `scan.split` needs to know to do a pattern's work without a regular expression."""

    kind: int
    """GPT2, CL100K or O200K: which alternatives there are."""
    digits: int
    """The most digits in a chunk; 0: no limit."""
    trailing: bool
    r"""Whether white space at the very end of the text is one chunk, newlines and all (cl100k's `\s++$`)."""


_RULES = {
    "gpt2": Rules(GPT2, 0, False),
    "cl100k": Rules(CL100K, 3, True),
    "llama3": Rules(CL100K, 3, False),
    "o200k": Rules(O200K, 3, False),
    "qwen": Rules(CL100K, 1, False),
    "penjing": Rules(CL100K, 1, False),
}

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SAME = {  # other ways of writing the same patterns, as found in tiktoken and in tokenizer.json files
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ): "cl100k",
    rf"{_ENDINGS}|{_WORD}|\p{{N}}{{1,3}}|{_OTHER}|{_SPACES}": "llama3",
    rf"{_ENDINGS}|{_WORD}|\p{{N}}|{_OTHER}|{_SPACES}": "qwen",
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+{_ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*{_ENDINGS}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    ): "o200k",
}


@dataclass(frozen=True)
class SplitPattern:
    """A way of cutting text into chunks."""

    expressions: tuple[str, ...]
    """Regular expressions; each cuts the pieces that the one before it left. Empty: the text stays whole."""
    names: tuple[str | None, ...]
    """For each expression its name in `PATTERNS`, or None for one's own."""

    @classmethod
    def of(cls, pattern: "str | Sequence[str] | SplitPattern") -> "SplitPattern":
        """The pattern of a name ("cl100k") or a regular expression, or of several, to be applied one after another.

        Raises:
            TokenizerError: one is neither a name nor a valid expression.
        """
        if isinstance(pattern, SplitPattern):
            return pattern
        written = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        names = tuple(_name_of(expression) for expression in written)
        return cls(tuple(PATTERNS[n] if n is not None else w for n, w in zip(names, written, strict=True)), names)

    @property
    def name(self) -> str | None:
        """The name of a pattern that is a single known one, else None."""
        return self.names[0] if len(self.names) == 1 else None

    @property
    def rules(self) -> tuple[Rules | None, ...]:
        """For each expression what the fast scanner follows, or None where `regex` has to do it."""
        return tuple(_RULES[name] if name is not None else None for name in self.names)

    @cached_property
    def compiled(self) -> tuple["regex.Pattern[str]", ...]:
        """The expressions, compiled."""
        return tuple(regex.compile(expression) for expression in self.expressions)

    def split(self, text: str) -> list[str]:
        """The chunks of `text`; joined they are the text again. This is the reference for the fast scanner.

        >>> SplitPattern.of("gpt2").split("it's  2024!")
        ['it', "'s", ' ', ' 2024', '!']
        """
        pieces = [text] if text else []
        for expression in self.compiled:
            pieces = [part for piece in pieces for part in isolate(expression, piece)]
        return pieces


def _name_of(written: str) -> str | None:
    """The name of a known pattern, given its name or one of the ways of writing it; None for a new expression."""
    if written in PATTERNS:
        return written
    for name, expression in PATTERNS.items():
        if expression == written:
            return name
    if written in _SAME:
        return _SAME[written]
    if written.isidentifier():
        raise TokenizerError(f"there is no split pattern '{written}'{nearest(written, PATTERNS)}")
    try:
        regex.compile(written)
    except regex.error as error:
        raise TokenizerError(f"the split pattern {written!r} is not a regular expression: {error}") from None
    return None


def isolate(expression: "regex.Pattern[str]", text: str) -> Iterator[str]:
    """The matches in `text` and what lies between them, in order."""
    position = 0
    for match in expression.finditer(text):
        start, end = match.span()
        if start == end:
            continue
        if start > position:
            yield text[position:start]
        yield text[start:end]
        position = end
    if position < len(text):
        yield text[position:]
