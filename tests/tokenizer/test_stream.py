"""Decoding id by id: nothing is lost, nothing half is shown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.errors import TokenizerError
from penjing.tokenizer import Tokenizer
from penjing.tokenizer.bpe import BytePairModel
from penjing.tokenizer.sentencepiece import Prefix, SentencePieceModel, merges_of_scores
from penjing.tokenizer.stream import IncrementalDecoder
from tests.tokenizer.texts import hard_text

PIECES = ["", "▁", "▁▁", "▁a", "a", "▁ab", "盆", "b", "▁盆"]
BYTE_IDS = range(len(PIECES), len(PIECES) + 256)


def byte_level() -> Tokenizer:
    tokens = [bytes([byte]) for byte in range(256)] + [
        b" a",
        "盆".encode(),
        b" \xe7",
        b"\x9b\x86",
        b"\x9f\x8e",
        b"\xff\xf0",
    ]
    model = BytePairModel(tokens, [], "penjing")
    return Tokenizer(model, special_tokens={"<|end|>": 270, "<|盆|>": 262}, added_tokens={"<think>": 265})


def sentencepiece(where: str = "always") -> Tokenizer:
    scores = {piece: -float(place) for place, piece in enumerate(PIECES) if piece}
    model = SentencePieceModel(PIECES + [""] * 256, merges_of_scores(scores), BYTE_IDS, prefix=Prefix(where))
    return Tokenizer(model, special_tokens={"<s>": 0, "</s>": 300}, added_tokens={"<think>": 301})


TOKENIZERS = {"bytes": byte_level(), "sentencepiece": sentencepiece(), "no dummy space": sentencepiece("never")}
each = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


@each
@settings(max_examples=150, deadline=None)
@given(data_=st.data(), skip_special=st.booleans(), at_start=st.booleans())
def test_what_is_streamed_is_what_is_decoded_at_once(tokenizer, data_, skip_special, at_start):
    """For any ids whatever: broken characters, gaps in the vocabulary, special tokens amid a character."""
    ids = data_.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    decoder = IncrementalDecoder(tokenizer, skip_special=skip_special, at_start=at_start)
    streamed = "".join([*map(decoder.push, ids), decoder.flush()])
    assert streamed == tokenizer.decode(ids, skip_special=skip_special, at_start=at_start)


@each
@settings(max_examples=60, deadline=None)
@given(text=hard_text())
def test_text_never_shows_half_a_character(tokenizer, text):
    """Every piece is whole: joined so far they are a prefix of the text, and the flush has nothing left."""
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    shown = ""
    decoder = IncrementalDecoder(tokenizer)
    for number in ids:
        shown += decoder.push(number)
        assert whole.startswith(shown)
    assert decoder.flush() == ""
    assert shown == whole
    assert "\ufffd" not in whole or "\ufffd" in text


def test_bytes_wait_only_as_long_as_they_may_become_a_character():
    """盆 is E7 9B 86: two bytes wait, a third that does not fit shows U+FFFD at once, the end gives up on the rest."""
    decoder = IncrementalDecoder(TOKENIZERS["bytes"])
    assert [decoder.push(byte) for byte in (0xE7, 0x9B, 0x86)] == ["", "", "盆"]
    assert [decoder.push(byte) for byte in (0xE7, 0x9B, ord("a"))] == ["", "", "\ufffda"]
    assert [decoder.push(byte) for byte in (0xFF, 0xC0, 0x80, 0xF0)] == ["\ufffd", "\ufffd", "\ufffd", ""]
    assert decoder.push(257) == "\ufffd盆"  # a whole character in one token, after a lead byte that waited
    assert decoder.push(0xF0) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push(ord("b")) == "b"


def test_the_dummy_space_is_dropped_where_a_text_begins_and_only_there():
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = [3, 5, 3]  # ▁a ▁ab ▁a
    assert tokenizer.decode(ids) == "a ab a"
    decoder = IncrementalDecoder(tokenizer)
    assert [decoder.push(number) for number in ids] == ["a", " ab", " a"]
    decoder = IncrementalDecoder(tokenizer, at_start=False)  # goes on after a prompt
    assert [decoder.push(number) for number in ids] == [" a", " ab", " a"]
    decoder = IncrementalDecoder(tokenizer, skip_special=True)  # a special token that is not shown is no beginning
    assert [decoder.push(number) for number in (0, 1, 3)] == ["", "", " a"]
    assert tokenizer.decode([0, 1, 3], skip_special=True) == " a"


def test_an_id_outside_the_vocabulary_is_an_error():
    with pytest.raises(TokenizerError, match="id 271 is outside the vocabulary of 271"):
        IncrementalDecoder(TOKENIZERS["bytes"]).push(271)


@pytest.mark.parametrize("name", ["cl100k_base.tiktoken", "minimind", "llama2/tokenizer.model"])
def test_real_vocabularies_stream_chinese_and_emoji_whole(data, name):
    """On real tokens, which cut characters in every way; oracle: the text."""
    tokenizer = Tokenizer.load(data / "tokenizer" / name)
    text = (data / "text" / "zh" / "hongloumeng.txt").read_text(encoding="utf-8")[:2_000] + "🎍👩‍🚀🇨🇳ก็ naïve"
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(number) for number in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert decoder.flush() == ""
    assert "" in pieces  # some had to wait
