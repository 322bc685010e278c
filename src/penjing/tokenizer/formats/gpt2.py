"""GPT-2's pair of files: encoder.json (tokens and ids) and vocab.bpe (merges); Hugging Face: vocab.json and merges.txt.

Tokens are written in GPT-2's alphabet (see `bpe.BYTE_TO_CHARACTER`). vocab.bpe has a comment line, then a merge on each
line, best first: its two halves with a space between.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, and the code released with it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from penjing.errors import TokenizerError
from penjing.files import atomic_file, read_json, write_json
from penjing.tokenizer.bpe import BYTE_TO_CHARACTER, CHARACTER_TO_BYTE, BytePairModel
from penjing.tokenizer.formats.parts import Parts, read_bytes
from penjing.tokenizer.tables import MOST_TOKENS
from penjing.tokenizer.tokenizer import Tokenizer

_PAIRS = {"vocab.bpe": "encoder.json", "merges.txt": "vocab.json"}
NAMES = (*_PAIRS, *_PAIRS.values())


def read(file: Path, *, pattern: str = "gpt2") -> Parts:
    """The tokenizer in the pair of files that `file` is one of.

    Raises:
        TokenizerError: one of the two is missing or damaged.
    """
    merges_name = {vocabulary: merges for merges, vocabulary in _PAIRS.items()}.get(file.name, file.name)
    merges_file, vocabulary_file = file.with_name(merges_name), file.with_name(_PAIRS[merges_name])
    vocabulary = check_vocabulary(read_json(vocabulary_file, TokenizerError), vocabulary_file)
    try:
        lines = read_bytes(merges_file).decode().splitlines()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{merges_file}: not UTF-8 text (byte {error.start})") from None
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    merges = merge_ids((line for line in lines if line), vocabulary, merges_file)

    reachable = {merged for _, _, merged in merges} | {vocabulary.get(letter) for letter in CHARACTER_TO_BYTE}
    special = {written: number for written, number in vocabulary.items() if number not in reachable}
    return Parts(BytePairModel(tokens_of(vocabulary, special), merges, pattern), special_tokens=special)


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes encoder.json and vocab.bpe; the split pattern has no place in them and is taken to be GPT-2's.

    Raises:
        TokenizerError: the tokenizer is not byte-level BPE, or two of its tokens are written alike.
    """
    model = tokenizer.model
    if not isinstance(model, BytePairModel):
        raise TokenizerError(f"vocab.bpe holds byte-level BPE; this is a {type(model).__name__}")
    tokens = ["".join(map(BYTE_TO_CHARACTER.__getitem__, token)) for token in model.tokens]
    vocabulary = {token: number for number, token in enumerate(tokens) if token}
    write_json(folder / "encoder.json", with_outside(vocabulary, tokenizer))
    with atomic_file(folder / "vocab.bpe") as temporary:
        lines = [f"{tokens[left]} {tokens[right]}" for left, right, _ in model.merges.tolist()]
        temporary.write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")


def with_outside(vocabulary: dict[str, int], tokenizer: Tokenizer) -> dict[str, int]:
    """A model's vocabulary as a file writes it, and the tokens outside the model, in the order of their ids.

    Raises:
        TokenizerError: a token of the text is written as one outside is, which a reader could not tell apart: text
            would give a special token.
    """
    outside = tokenizer.added_tokens | tokenizer.special_tokens
    for token, number in outside.items():
        if vocabulary.get(token, number) != number:
            raise TokenizerError(
                f"this tokenizer cannot be saved: {token!r} is the name of token {number}, and a file would write the "
                f"text of token {vocabulary[token]} in the same way; rename the special token"
            )
    return dict(sorted((vocabulary | outside).items(), key=lambda item: item[1]))


def check_vocabulary(vocabulary: object, file: Path) -> dict[str, int]:
    """`vocabulary` if it is tokens with ids.

    Raises:
        TokenizerError: it is something else, or two tokens share an id.
    """
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise TokenizerError(f"{file}: the vocabulary is not an object of tokens and ids")
    for token, number in vocabulary.items():
        if not isinstance(number, int) or not 0 <= number < MOST_TOKENS:
            raise TokenizerError(
                f"{file}: the token {token!r} has the id {json.dumps(number)}, not a number from 0 to {MOST_TOKENS - 1}"
            )
    if len(set(vocabulary.values())) != len(vocabulary):
        raise TokenizerError(f"{file}: two tokens of the vocabulary share an id")
    return vocabulary


def merge_ids(written: Iterable[object], vocabulary: Mapping[str, int], file: Path) -> list[tuple[int, int, int]]:
    """The merges, each a string of two halves or a pair of them, as `(left, right, merged)` ids.

    Raises:
        TokenizerError: a merge is of another form, or names a token that the vocabulary lacks.
    """
    merges: list[tuple[int, int, int]] = []
    for merge in written:
        match merge.split(" ") if isinstance(merge, str) else merge:
            case [str(left), str(right)]:
                try:
                    merges.append((vocabulary[left], vocabulary[right], vocabulary[left + right]))
                except KeyError as error:
                    raise TokenizerError(f"{file}: the merge {merge!r} needs the token {error}") from None
            case _:
                raise TokenizerError(f"{file}: the merge {merge!r} is not two tokens")
    return merges


def tokens_of(vocabulary: Mapping[str, int], outside: Iterable[str]) -> list[bytes]:
    """The bytes of each id of a vocabulary in GPT-2's alphabet; `b""` for those `outside` and ids without a token.

    Raises:
        TokenizerError: a token is not in that alphabet.
    """
    tokens = [b""] * (1 + max(vocabulary.values()))
    outside = set(outside)
    for written, number in vocabulary.items():
        if written not in outside:
            try:
                tokens[number] = bytes(map(CHARACTER_TO_BYTE.__getitem__, written))
            except KeyError as error:
                raise TokenizerError(
                    f"the token {written!r} has the character {error} that stands for no byte"
                ) from None
    return tokens
