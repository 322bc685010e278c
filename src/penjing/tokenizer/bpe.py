"""Byte-level BPE (in the making: the constructor first, so that readers of file formats can be written against it)."""

from collections.abc import Mapping, Sequence


class BytePairModel:
    """Byte-level BPE: tokens, and which pairs of them merge in which order.

    Two ways of making one:

        BytePairModel(tokens, merges, pattern)           # tokens: bytes of each id; merges: (left id, right id, merged id)
        BytePairModel.from_ranks(ranks, pattern)         # tiktoken: bytes -> id; a pair's priority is its merged id

    Args:
        tokens: the bytes of each id, `b""` for an id that is no token of the model (a gap, a special token's id).
        merges: `(left, right, merged)` ids in order of priority.
        pattern: how text is split first: a name in `patterns.PATTERNS`, a `SplitPattern`, or a regular expression.
        whole_chunks: a chunk that is a token is that token, whatever its merges would give (tokenizer.json's
            `ignore_merges`; tiktoken does it always).
        normalization: None or one of unicodedata's forms ("NFC"), applied before splitting.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: Sequence[tuple[int, int, int]],
        pattern: str,
        *,
        whole_chunks: bool = False,
        normalization: str | None = None,
    ):
        self.tokens = list(tokens)
        self.merges = list(merges)
        self.pattern = pattern
        self.whole_chunks = whole_chunks
        self.normalization = normalization

    @classmethod
    def from_ranks(
        cls, ranks: Mapping[bytes, int], pattern: str, *, normalization: str | None = None
    ) -> "BytePairModel":
        """A model from tiktoken's ranks: each token's bytes with its id."""
        raise NotImplementedError
