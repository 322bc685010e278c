r"""From token ids to text that may be shown: whole characters only, and never a part of a stop string.

What has been generated may end in the beginning of a stop string:  "...the end\n\nUs"  with the stop string
"\n\nUser:". Those characters are held back until the next ones show whether the stop string goes on.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from penjing.errors import GenerationError

if TYPE_CHECKING:
    from penjing.inference.engine.request import Token
    from penjing.tokenizer import Tokenizer


class Decoder(Protocol):
    """What turns ids into text as they come (`penjing.tokenizer.IncrementalDecoder`)."""

    def push(self, id: int) -> str:
        """The whole characters that this id completes."""

    def flush(self) -> str:
        """What is left at the end."""


class StopStrings:
    """Cuts a text that comes in pieces before the first of some strings to be complete.

    "First" is the one that ends first, of those the one that starts first, so the cut does not depend on where the
    pieces of text begin and end.

    >>> stop = StopStrings(["END"])
    >>> stop.push("one E"), stop.push("ND two"), stop.found
    ('one ', '', 'END')
    """

    def __init__(self, strings: Sequence[str]):
        self.strings = tuple(strings)
        self.found: str | None = None
        """The stop string that ended the text; nothing is let through after it."""
        self._held = ""

    def push(self, text: str) -> str:
        """What may be shown now that `text` has come."""
        if not self.strings:
            return text
        if self.found is not None:
            return ""
        text = self._held + text
        hits = [(start + len(stop), start, stop) for stop in self.strings if (start := text.find(stop)) >= 0]
        if hits:
            _, start, self.found = min(hits)
            self._held = ""
            return text[:start]
        keep = max((overlap(text, stop) for stop in self.strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once nothing more will come."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`, which is not whole in it."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0


class TextStream:
    """The text of one answer as its ids come: decoded by whole characters, stop strings cut off."""

    def __init__(self, decoder: Decoder, stop: Sequence[str] = ()):
        self._decoder = decoder
        self._stop = StopStrings(stop)

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text, if one has."""
        return self._stop.found

    def push(self, token: "Token") -> str:
        """What this token makes certain, often nothing; with the last token, all the rest."""
        shown = "" if token.is_stop else self._stop.push(self._decoder.push(token.id))
        if token.reason is not None:
            shown += self._stop.push(self._decoder.flush()) + self._stop.flush()
        return shown


def encode_prompt(tokenizer: "Tokenizer", prompt: str) -> list[int]:
    """The ids of a prompt, after the tokens that begin a text where the tokenizer's models expect any.

    Raises:
        GenerationError: there is nothing to continue.
    """
    ids = [*tokenizer.prefix_ids, *tokenizer.encode(prompt)]
    if not ids:
        raise GenerationError(
            "the prompt is empty, and this tokenizer has no token that begins a text: write at least one character"
        )
    return ids


def end_ids(tokenizer: "Tokenizer") -> frozenset[int]:
    """The ids that end a text or an assistant's turn."""
    return tokenizer.stop_ids


def text_of(tokenizer: "Tokenizer", ids: Iterable[int]) -> str:
    """The text of ids that follow a prompt, without special tokens."""
    return tokenizer.decode(ids, skip_special=True, at_start=False)


def decoder_of(tokenizer: "Tokenizer", *, at_start: bool = False) -> Decoder:
    """A decoder of what follows a text, or with `at_start` of a new text; it leaves special tokens out."""
    from penjing.tokenizer.stream import IncrementalDecoder

    return IncrementalDecoder(tokenizer, skip_special=True, at_start=at_start)


def writable(text: str) -> bool:
    """Whether text can be written as UTF-8; half a surrogate pair, as a wrong byte on a terminal gives, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unescaped(text: str) -> str:
    r"""What a user means who types `\n` or `\t` where a line break or a tab cannot be typed."""
    return text.replace("\\n", "\n").replace("\\t", "\t")
