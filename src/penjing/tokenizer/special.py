"""Penjing's convention for special tokens: their names, and what they are for."""

from collections.abc import Iterable, Sequence

from penjing.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
DEFAULT_SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
USUAL_EOS = (END_OF_TEXT, "<|end_of_text|>", "</s>")
"""The names that end a document where nothing else is said."""


def check_names(names: Sequence[str], tokens: Iterable[bytes]) -> None:
    """Refuses a name that is given twice, and one that is among the tokens of text.

    Raises:
        TokenizerError: a file has one id for a name, so that text would give the special token.
    """
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise TokenizerError(f"the special token {twice!r} is given twice")
    taken = next(iter({name.encode("utf-8", "surrogatepass") for name in names if name}.intersection(tokens)), None)
    if taken is not None:
        name = taken.decode("utf-8", "replace")
        raise TokenizerError(
            f"the special token {name!r} is a token of ordinary text as well, which could not be told from it; give it "
            "a name that no text has, such as <|name|>"
        )


def end_of_document(names: Sequence[str], eos: str | None) -> str | None:
    """`eos`, or the usual name among the special tokens, if there is one. What ends a turn is never taken for it.

    Raises:
        TokenizerError: `eos` is none of the names, or one that is for turns.
    """
    if eos is None:
        return next((name for name in USUAL_EOS if name in names), None)
    if eos not in names or eos in (TURN_START, TURN_END):
        raise TokenizerError(f"eos is {eos!r}; it must be one of the special tokens, and none that is for turns")
    return eos
