"""SentencePiece's model file: a protobuf message, read here field by field.

The message, as far as it matters (field numbers of sentencepiece_model.proto):

    1  pieces, repeated      1 text, 2 score, 3 kind
    2  trainer               3 algorithm, 24 space after words, 35 byte fallback, 41 bos id, 42 eos id, 43 pad id
    3  normalizer            2 rules, 3 dummy space, 4 collapse spaces, 5 spaces to ▁
    5  denormalizer          2 rules

Protobuf on the wire: each field is a key (number * 8 + type) and a value; type 0 is a variable-length integer of 7 bits
a byte, 1 and 5 are 8 and 4 bytes, 2 is a length and so many bytes.

Source: google/sentencepiece, `src/sentencepiece_model.proto`; Protocol Buffers' encoding guide.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from penjing.errors import TokenizerError
from penjing.tokenizer.formats.parts import Parts, read_bytes
from penjing.tokenizer.sentencepiece import SPACE, Prefix, SentencePieceModel, merges_of_scores

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = _KINDS = range(1, 7)
_ALGORITHMS = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}


def read(file: Path) -> Parts:
    """The tokenizer in a SentencePiece model file.

    Raises:
        TokenizerError: the file is missing or damaged; it is not BPE with byte fallback; it normalizes text.
    """
    try:
        return _read(read_bytes(file))
    except TokenizerError as error:
        raise TokenizerError(f"{file}: {error}") from None


def _read(content: bytes) -> Parts:
    pieces: list[tuple[str, float, int]] = []
    messages: dict[int, dict[int, int | bytes]] = {2: {}, 3: {}, 5: {}}
    for field, value in _fields(content):
        if field == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif field in messages and isinstance(value, bytes):
            messages[field] = dict(_fields(value))
    if not pieces:
        raise TokenizerError("not a SentencePiece model: it holds no pieces")
    trainer, normalizer, denormalizer = messages[2], messages[3], messages[5]
    for message, numbers in ((trainer, (3, 24, 35, 41, 42, 43)), (normalizer, (3, 4, 5))):
        if any(isinstance(message.get(field), bytes) for field in numbers):
            raise TokenizerError("not a SentencePiece model, or damaged: a setting of the wrong type")
    _check(trainer, normalizer, denormalizer)

    kinds = {kind: {text: number for number, (text, _, own) in enumerate(pieces) if own == kind} for kind in _KINDS}
    prefix = Prefix("always" if normalizer.get(3, 1) else "never")
    user_defined, added = kinds[_USER_DEFINED], {}
    if prefix.where == "never" and not any(SPACE in text for text in user_defined):
        user_defined, added = {}, user_defined  # the same as added tokens, which a tokenizer.json can hold
    model = SentencePieceModel(
        [text if kind == _NORMAL or text in user_defined else "" for text, _, kind in pieces],
        merges_of_scores({text: score for text, score, kind in pieces if kind == _NORMAL}),
        [kinds[_BYTE].get(f"<0x{byte:02X}>", -1) for byte in range(256)],
        user_defined=list(user_defined),
        prefix=prefix,
    )
    special = kinds[_UNKNOWN] | kinds[_CONTROL]
    bos, eos, pad = (_name(trainer.get(field, usual), special) for field, usual in ((41, 1), (42, 2), (43, -1)))
    return Parts(model, special, added, bos=bos, eos=eos, pad=pad, adds_bos=bos is not None)


def _check(
    trainer: dict[int, int | bytes], normalizer: dict[int, int | bytes], denormalizer: dict[int, int | bytes]
) -> None:
    algorithm = trainer.get(3, 1)
    if algorithm != 2:
        name = _ALGORITHMS.get(int(algorithm), str(algorithm))
        raise TokenizerError(f"a SentencePiece model of type {name}; only BPE can be read")
    if not trainer.get(35, 0):
        raise TokenizerError("a SentencePiece model without byte fallback; it would lose characters, so it is not read")
    if normalizer.get(2) or denormalizer.get(2):
        raise TokenizerError("the SentencePiece model normalizes text by rules of its own; only identity can be read")
    if normalizer.get(4, 1):
        raise TokenizerError("the SentencePiece model removes extra spaces (remove_extra_whitespaces); not supported")
    if not normalizer.get(5, 1):
        raise TokenizerError("the SentencePiece model keeps spaces as they are (escape_whitespaces off); not supported")
    if trainer.get(24, 0):
        raise TokenizerError(
            "the SentencePiece model puts spaces after words (treat_whitespace_as_suffix); not supported"
        )


def _piece(message: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(message))
    text, score, kind = fields.get(1, b""), fields.get(2, b"\0\0\0\0"), fields.get(3, _NORMAL)
    if not (isinstance(text, bytes) and isinstance(score, bytes) and isinstance(kind, int)):
        raise TokenizerError("not a SentencePiece model, or damaged: a piece of the wrong type")
    if kind == _UNUSED:
        raise TokenizerError(f"the SentencePiece model has unused pieces ({text!r}); not supported")
    try:
        return text.decode(), struct.unpack("<f", score)[0], kind
    except (UnicodeDecodeError, struct.error):
        raise TokenizerError(f"not a SentencePiece model, or damaged: the piece {text!r}") from None


def _name(number: int | bytes, special: dict[str, int]) -> str | None:
    return next((text for text, owner in special.items() if owner == number), None)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: number and value, an integer or raw bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield key >> 3, value if value < 1 << 63 else value - (1 << 64)
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise TokenizerError("not a SentencePiece model, or damaged: an unknown kind of field")
        if position + length > len(message):
            raise TokenizerError("not a SentencePiece model, or cut short")
        yield key >> 3, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            raise TokenizerError("not a SentencePiece model, or cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
    raise TokenizerError("not a SentencePiece model, or damaged: an integer of more than 64 bits")
