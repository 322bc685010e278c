"""The tokenizer: text to ids and back, around a model of plain text.

A `TextModel` knows how to turn plain text into ids: byte-level BPE (`bpe.BytePairModel`), SentencePiece
(`sentencepiece.SentencePieceModel`) or BERT's WordPiece (`wordpiece.WordPieceModel`). `Tokenizer` adds what every one
needs: special tokens, which text can never forge, the ids that begin and end a document, the chat template, and files.

    tokenizer = Tokenizer.train(texts, vocab_size=4096)
    ids = tokenizer.encode("Once upon a time")
    tokenizer.decode(ids)                         # 'Once upon a time'
    tokenizer.save(Path("runs/tokenizer"))        # tokenizer.json, which transformers' AutoTokenizer opens as well
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penjing.errors import TokenizerError
from penjing.tokenizer.bpe import BytePairModel
from penjing.tokenizer.finding import Finder, with_gaps
from penjing.tokenizer.special import (
    DEFAULT_SPECIAL_TOKENS,
    TURN_END,
    TURN_START,
    check_names,
    end_of_document,
)
from penjing.tokenizer.tables import MOST_TOKENS

if TYPE_CHECKING:
    from penjing.tokenizer.chat import ChatTemplate


class TextModel(Protocol):
    """What turns plain text (no special tokens in it) into ids, and ids into bytes. Immutable in use; pickles."""

    @property
    def tokens(self) -> Sequence[bytes]:
        """The bytes of each id, `b""` for an id that stands for none. Its length is one past the model's largest id."""

    def encode(self, text: str, *, at_start: bool = True) -> NDArray[np.int32]:
        """The ids of `text`, shape `(tokens,)`. `at_start` is False for text that follows a special token."""

    def normalize(self, text: str, *, at_start: bool = True) -> str:
        """`text` as its tokens spell it: normalized, with SentencePiece's space before it."""

    def decode_bytes(self, ids: Sequence[int], *, at_start: bool = True) -> bytes:
        """The bytes that `ids` (none of them special) stand for. `at_start` is False when text comes before them."""

    def sections(self) -> dict[str, Any]:
        """This model's part of a tokenizer.json: `normalizer`, `pre_tokenizer`, `decoder`, `model`."""


class Tokenizer:
    """Text to ids and back.

    Args:
        model: encodes plain text.
        special_tokens: tokens that have no text of their own, with their ids. In text they are plain text, unless the
            caller of `encode` allows them.
        added_tokens: tokens outside the model's vocabulary that ARE text, found in it before the model sees it
            (runs of spaces in GPT-NeoX, `<think>` in some chat models), with their ids.
        bos, eos, pad: which of the tokens begin a document, end it, and fill a batch.
        adds_bos: whether the model expects `bos` before every prompt and document. `encode` gives the text's own ids
            and leaves it to the caller; transformers' tokenizer adds it by itself.
        prefix: special tokens that it expects there, where they are others than `bos` (BERT's [CLS], GLM-4's
            [gMASK]<sop>).
        suffix: special tokens that it expects after every text (BERT's [SEP]).
        swallows: for some special or added tokens, the sides ("left", "right", "both") whose white space belongs to
            the token when it is found in text.
        chat_template: a Jinja template in Hugging Face's convention.

    Raises:
        TokenizerError: when two tokens share an id or one is too large, or `bos`, `eos`, `pad` or one of `prefix` and
            `suffix` is not a token.
    """

    def __init__(
        self,
        model: TextModel,
        *,
        special_tokens: Mapping[str, int] | None = None,
        added_tokens: Mapping[str, int] | None = None,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        adds_bos: bool = False,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        swallows: Mapping[str, str] | None = None,
        chat_template: str | None = None,
    ):
        self.model = model
        self.special_tokens = dict(special_tokens or {})
        self.added_tokens = dict(added_tokens or {})
        self.bos, self.eos, self.pad = bos, eos, pad
        self.adds_bos = adds_bos and not prefix
        self.prefix = (bos,) if self.adds_bos and bos is not None else tuple(prefix)
        self.suffix = tuple(suffix)
        self.swallows = dict(swallows or {})
        self.chat_template = chat_template
        outside = self.special_tokens | self.added_tokens
        self._check(outside)
        if adds_bos and bos is None:
            raise TokenizerError("adds_bos is set, but the tokenizer has no bos token")
        self.vocab_size = max(len(model.tokens), 1 + max(outside.values(), default=-1))
        if self.vocab_size > MOST_TOKENS:
            raise TokenizerError(f"{self.vocab_size:,} ids are more than the {MOST_TOKENS:,} that a tokenizer can have")
        self.bos_id, self.eos_id, self.pad_id = (
            None if name is None else self._id_of(name) for name in (bos, eos, pad)
        )
        self.prefix_ids = [self._id_of(name) for name in self.prefix]
        self.suffix_ids = [self._id_of(name) for name in self.suffix]
        self._special_ids = frozenset(self.special_tokens.values())
        self._added_ids = frozenset(self.added_tokens.values())

    def _check(self, outside: Mapping[str, int]) -> None:
        owners: dict[int, str] = {}
        for text, number in outside.items():
            if not text:
                raise TokenizerError("a special token cannot be the empty string")
            if number < 0:
                raise TokenizerError(f"the token {text!r} has the id {number}; ids start at 0")
            if owners.setdefault(number, text) != text:
                raise TokenizerError(f"the tokens {owners[number]!r} and {text!r} share the id {number}")

    def _id_of(self, text: str) -> int:
        number = self.token_id(text)
        if number is None:
            raise TokenizerError(f"{text!r} is not a token of this vocabulary; add it to special_tokens")
        return number

    def __repr__(self) -> str:
        return (
            f"Tokenizer({type(self.model).__name__}, vocab_size={self.vocab_size}, special={len(self.special_tokens)})"
        )

    @cached_property
    def chat(self) -> "ChatTemplate | None":
        """The chat template bound to this tokenizer, or None when it has none."""
        if self.chat_template is None:
            return None
        from penjing.tokenizer.chat import ChatTemplate

        return ChatTemplate(self, self.chat_template)

    @property
    def end_of_turn_id(self) -> int | None:
        """The id that ends an assistant's turn, or None without a chat template."""
        return self.chat.end_of_turn_id if self.chat is not None else None

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids after which there is nothing more to say: those that end a text or an assistant's turn."""
        ends = frozenset() if self.eos_id is None else frozenset({self.eos_id})
        return ends | (self.chat.stop_ids if self.chat is not None else frozenset())

    # text to ids

    def encode(self, text: str, *, allow_special: bool = False, at_start: bool = True) -> list[int]:
        """The ids of `text`. Special tokens written in it are plain text unless `allow_special`.

        `at_start` is False for text that goes on after other tokens (only SentencePiece models tell the difference).
        """
        return self.encode_array(text, allow_special=allow_special, at_start=at_start).tolist()

    def encode_array(self, text: str, *, allow_special: bool = False, at_start: bool = True) -> NDArray[np.int32]:
        """As `encode`, as an int32 array of shape `(tokens,)`: the fast path for large texts."""
        if not self.added_tokens and not (allow_special and self.special_tokens):
            return self.model.encode(text, at_start=at_start)
        stretches = self.encode_stretches(text, allow_special=allow_special, at_start=at_start)
        return np.concatenate([ids for _, _, ids in stretches])

    def encode_batch(self, texts: Sequence[str], *, workers: int = 1) -> list[list[int]]:
        """The ids of each text, `workers` texts at a time."""
        if workers <= 1 or len(texts) < 2:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(self.encode, texts))

    def encode_stretches(
        self, text: str, *, allow_special: bool = False, at_start: bool = True
    ) -> list[tuple[int, int, NDArray[np.int32]]]:
        """The stretches of `text` that are encoded by themselves, `(start, end, ids)`, in order.

        A stretch is a token that is not the model's, or what lies between two; special tokens are found first.
        """
        stretches: list[tuple[int, int, NDArray[np.int32]]] = []
        for start, end, special in with_gaps(self.find_special(text) if allow_special else (), len(text)):
            if special is not None:
                stretches.append((start, end, np.array([special], dtype=np.int32)))
            else:
                plain = self._plain_stretches(text[start:end], at_start and start == 0)
                stretches += [(start + begin, start + stop, ids) for begin, stop, ids in plain]
        return stretches or [(0, 0, np.zeros(0, dtype=np.int32))]

    def _plain_stretches(self, text: str, at_start: bool) -> list[tuple[int, int, NDArray[np.int32]]]:
        """Those of text without special tokens. Added tokens are sought in what normalizing makes of it; a text that
        it changes is one stretch, for places in it are no places in the text.
        """
        form = self.model.normalization if isinstance(self.model, BytePairModel) else None
        if self.added_tokens and form is not None and not unicodedata.is_normalized(form, text):
            parts = self._plain_stretches(unicodedata.normalize(form, text), at_start)
            return [(0, len(text), np.concatenate([ids for _, _, ids in parts]))] if parts else []
        found = self._find_added(text) if self.added_tokens else ()
        return [
            (start, end, np.array([number], dtype=np.int32))
            if number is not None
            else (start, end, self.model.encode(text[start:end], at_start=at_start and start == 0))
            for start, end, number in with_gaps(found, len(text))
        ]

    def find_special(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Where special tokens stand in `text`: `(start, end, id)`, with the white space that a token swallows."""
        return self._find_special(text) if self.special_tokens else iter(())

    @cached_property
    def _find_added(self) -> Finder:
        return Finder(self.added_tokens, self.swallows)

    @cached_property
    def _find_special(self) -> Finder:
        return Finder(self.special_tokens, self.swallows)

    # ids to text

    def decode(self, ids: Iterable[int], *, skip_special: bool = False, at_start: bool = True) -> str:
        """The text of `ids`; bytes that are no whole character become U+FFFD. See `stream` for decoding bit by bit.

        `at_start` is False for ids that continue a text: SentencePiece's first space is then a space, not the mark of
        the beginning.
        """
        content = self.decode_bytes(ids, skip_special=skip_special, at_start=at_start)
        return content.decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False, at_start: bool = True) -> bytes:
        """The bytes of `ids`; special tokens give their name, or nothing with `skip_special`.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """
        ids = list(map(int, ids))
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(number for number in ids if not 0 <= number < self.vocab_size)
            raise TokenizerError(f"id {wrong} is outside the vocabulary of {self.vocab_size}")
        table = self._silent if skip_special else self._spoken
        parts = [table[number] for number in ids]
        if at_start:  # the model may begin a text in its own way
            first = next((place for place, part in enumerate(parts) if part), None)
            if first is not None and not self._is_outside(ids[first]):
                parts[first] = self.model.decode_bytes([ids[first]])
        return b"".join(parts)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for in text; `b""` for a special token."""
        if not 0 <= id < self.vocab_size:
            raise TokenizerError(f"id {id} is outside the vocabulary of {self.vocab_size}")
        return self._silent[id]

    def is_special(self, id: int) -> bool:
        """Whether an id is a special token's."""
        return id in self._special_ids

    def _is_outside(self, id: int) -> bool:
        return id in self._special_ids or id in self._added_ids

    @cached_property
    def _silent(self) -> list[bytes]:
        """The bytes of each id, none for special tokens."""
        table = [*self.model.tokens, *[b""] * (self.vocab_size - len(self.model.tokens))]
        for text, number in self.added_tokens.items():
            table[number] = text.encode()
        for number in self._special_ids:
            table[number] = b""
        return table

    @cached_property
    def _spoken(self) -> list[bytes]:
        """The bytes of each id, for special tokens those of their names."""
        table = list(self._silent)
        for text, number in self.special_tokens.items():
            table[number] = text.encode()
        return table

    def token_id(self, token: str) -> int | None:
        """The id of a special or added token, or of a text that is one token of the model; None when there is none."""
        for known in (self.special_tokens, self.added_tokens):
            if token in known:
                return known[token]
        return self._model_ids.get(token.encode("utf-8", errors="surrogatepass"))

    @cached_property
    def _model_ids(self) -> dict[bytes, int]:
        return {token: number for number, token in enumerate(self.model.tokens) if token}

    # making, reading and writing

    @classmethod
    def train(
        cls,
        source: Iterable[str] | str | Path | Sequence[Path],
        vocab_size: int,
        *,
        pattern: str = "penjing",
        special_tokens: Sequence[str] = DEFAULT_SPECIAL_TOKENS,
        eos: str | None = None,
        workers: int = 1,
        errors: str = "strict",
        progress: "Callable[[str, int, int], None] | None" = None,
    ) -> "Tokenizer":
        """Learns a byte-level BPE vocabulary; see `training.train`, which does the work.

        Args:
            source: texts, one document each; or text files to be read in pieces.
            vocab_size: ids in all: 256 bytes, the merges, and the special tokens, which come last.
            pattern: how text is split into chunks that no token crosses; a name from `patterns.PATTERNS` or a regex.
            special_tokens: their names. With `<|im_start|>` and `<|im_end|>` the tokenizer has a chat template
                (ChatML).
            eos: which of them ends a document; None: the first of `special.USUAL_EOS` that is there, if any.
            workers: threads that split and count.
            errors: "strict" refuses files that are not UTF-8, "replace" reads them with U+FFFD.
            progress: called with what is being done, how much is done, and how much there is (0: not known).

        Raises:
            TokenizerError: the vocabulary is too small or too large, the corpus is empty, or a special token is given
                twice or is a token of the text as well.
            DataError: a file is missing or not UTF-8.
        """
        from penjing.tokenizer import training

        check_names(special_tokens, (bytes([byte]) for byte in range(256)))
        eos = end_of_document(special_tokens, eos)
        model = training.train(
            source,
            vocab_size - len(special_tokens),
            pattern=pattern,
            workers=workers,
            errors=errors,
            progress=progress,
            reserved=len(special_tokens),
        )
        return cls.around(model, special_tokens, eos=eos)

    @classmethod
    def around(
        cls, model: TextModel, special_tokens: Sequence[str] = DEFAULT_SPECIAL_TOKENS, *, eos: str | None = None
    ) -> "Tokenizer":
        """A tokenizer in Penjing's own convention: special tokens after the model's ids, ChatML when they allow it.

        Arguments and errors as of `train`. What ends a document also fills a batch.
        """
        check_names(special_tokens, model.tokens)
        first, template = len(model.tokens), None
        end = end_of_document(special_tokens, eos)
        if TURN_START in special_tokens and TURN_END in special_tokens:
            from penjing.tokenizer.chat import CHATML

            template = CHATML
        return cls(
            model,
            special_tokens={name: first + offset for offset, name in enumerate(special_tokens)},
            eos=end,
            pad=end,
            chat_template=template,
        )

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a tokenizer: a model folder, a tokenizer.json, a tiktoken or SentencePiece file; see `formats`."""
        from penjing.tokenizer import formats

        return formats.load(Path(path))

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json into `folder`; transformers' AutoTokenizer opens them."""
        from penjing.tokenizer import formats

        formats.save(self, Path(folder))
