"""GPT-2's alphabet: a printable character for each byte, so that tokens of bytes can be written in JSON.

Printable ASCII and Latin-1 stand for themselves; the 68 other bytes get the characters from U+0100 on, in order: a
space is Ġ (U+0120), a newline Ċ (U+010A).

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; `encoder.py` of its released code.
"""

from functools import cache

from penjing.errors import TokenizerError


@cache
def characters() -> str:
    """The character for each byte, a string of 256.

    >>> characters()[ord(" ")], characters()[ord("a")]
    ('Ġ', 'a')
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))


@cache
def _bytes() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(characters())}


def spell(token: bytes) -> str:
    """The token as it is written in vocabulary files.

    >>> spell(b" a")
    'Ġa'
    """
    return token.decode("latin-1").translate(characters())


def unspell(written: str) -> bytes:
    """The bytes of a token in a vocabulary file.

    Raises:
        TokenizerError: it has a character that stands for no byte.
    """
    known = _bytes()
    try:
        return bytes([known[character] for character in written])
    except KeyError as error:
        raise TokenizerError(f"the token {written!r} has the character {error} that stands for no byte") from None
