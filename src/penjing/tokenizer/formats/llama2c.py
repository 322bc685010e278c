"""llama2.c's tokenizer.bin: a SentencePiece BPE vocabulary with its scores and nothing else.

    int32 length of the longest piece, then for each id: float32 score, int32 length, the piece's UTF-8 bytes

Little-endian. Spaces are written as spaces; the first ids are <unk>, <s>, </s> and the 256 byte pieces.

Source: karpathy/llama2.c, `tokenizer.py` (export) and `run.c` (build_tokenizer, encode).
"""

import struct
from pathlib import Path

from penjing.errors import TokenizerError
from penjing.tokenizer.formats.parts import Parts, read_bytes
from penjing.tokenizer.sentencepiece import SPACE, SentencePieceModel, merges_of_scores

_SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
_FIRST_BYTE = len(_SPECIAL)
_FIRST_PIECE = _FIRST_BYTE + 256


def read(file: Path) -> Parts:
    """The tokenizer in a llama2.c file.

    Raises:
        TokenizerError: the file is missing, cut short, or no such file.
    """
    content = read_bytes(file)
    pieces: list[str] = []
    scores: list[float] = []
    position = 4
    while position < len(content):
        try:
            score, length = struct.unpack_from("<fi", content, position)
            position += 8
            piece = content[position : position + length]
            if not 0 <= length == len(piece):
                raise ValueError
            pieces.append(piece.decode())
        except (struct.error, ValueError):
            raise TokenizerError(f"{file}: not a llama2.c tokenizer, or cut short (at byte {position})") from None
        scores.append(score)
        position += length
    if pieces[_FIRST_BYTE:_FIRST_PIECE] != [f"<0x{byte:02X}>" for byte in range(256)]:
        raise TokenizerError(f"{file}: not a llama2.c tokenizer: no byte pieces at ids {_FIRST_BYTE} and up")
    texts = [""] * _FIRST_PIECE + [piece.replace(" ", SPACE) for piece in pieces[_FIRST_PIECE:]]
    merges = merges_of_scores(dict(zip(texts[_FIRST_PIECE:], scores[_FIRST_PIECE:], strict=True)))
    model = SentencePieceModel(texts, merges, range(_FIRST_BYTE, _FIRST_PIECE))
    return Parts(model, special_tokens=_SPECIAL, bos="<s>", eos="</s>", adds_bos=True)
