import numpy as np
import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.errors import TokenizerError
from penjing.tokenizer.patterns import PATTERNS, SplitPattern
from penjing.tokenizer.scan import LETTER, LOWER, NEWLINE, NUMBER, SPACE, UPPER, character_classes, chunk_ends, utf8
from tests.tokenizer.texts import FRAGMENTS, WHOLE_OR_SLICE, corpus

KNOWN = sorted(PATTERNS)
# one of each class, and those that a pattern names; all of them in Unicode 16
TRICKY = "aAsStTlLvVrReEdDmM'ſ \t\n\r\x0b/.,!-019²٣中文，éÉ\u0301\u0300ʰǅßﬁ\u00a0\u3000\u2028\u0085\x1c😀½Ⅷaก็"
tricky_text = st.text(st.sampled_from(TRICKY), max_size=12)
assigned_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cn", "Cs"]), max_size=8)
any_text = st.one_of(tricky_text, st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join), assigned_text)


def scanned(pattern: SplitPattern, data: bytes, *documents: int) -> list[bytes]:
    ends = chunk_ends(pattern, np.frombuffer(data, np.uint8), np.array(documents or [len(data)])).tolist()
    return [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=300, deadline=None)
@given(text=any_text)
def test_the_scanner_cuts_where_the_expression_does(name, text):
    """Oracle: the expression itself, run by `regex`. Exact."""
    pattern = SplitPattern.of(name)
    assert [chunk.decode() for chunk in scanned(pattern, text.encode())] == pattern.split(text)


@WHOLE_OR_SLICE
@pytest.mark.parametrize("name", KNOWN)
def test_the_scanner_cuts_real_text_where_the_expression_does(data, name, characters):
    """Oracle: the expression itself, run by `regex`, over English, Chinese and JSON. Exact."""
    pattern = SplitPattern.of(name)
    for file, text in corpus(data, characters):
        assert [chunk.decode() for chunk in scanned(pattern, text.encode())] == pattern.split(text), file


def test_each_character_has_the_class_that_tiktoken_gives_it():
    """Oracle: tiktoken's engine, asked for the members of each class among all code points. Exact."""
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    expected = np.zeros(0x110000, np.uint8)
    for expression, bits in {
        r"\p{L}": LETTER,
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]": UPPER,
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]": LOWER,
        r"\p{N}": NUMBER,
        r"\s": SPACE,
        r"[\r\n]": NEWLINE,
    }.items():
        ranks = {bytes([byte]): byte for byte in range(256)}
        engine = tiktoken.Encoding("class", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
        members = bytes(engine.encode_ordinary(every)).decode()
        expected[[ord(character) for character in members]] |= bits
    assert np.array_equal(character_classes(), expected)


def test_the_installed_regex_differs_only_in_characters_that_unicode_16_does_not_know():
    """Oracle: `regex`'s own tables. Where they differ, ours say nothing at all of the character."""
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    for expression, bit in {r"\p{L}": LETTER, r"\p{N}": NUMBER, r"\s": SPACE}.items():
        theirs = {ord(character) for character in regex.findall(expression, every)}
        ours = set(np.flatnonzero(character_classes() & bit).tolist())
        assert not ours - theirs
        assert not any(character_classes()[sorted(theirs - ours)])


@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.one_of(st.binary(max_size=5), any_text.map(str.encode)), max_size=6))
def test_any_bytes_are_cut_and_nothing_is_lost(name, parts):
    """Broken UTF-8 is cut somewhere too: the chunks joined are the bytes, none of them empty."""
    data = b"".join(parts)
    chunks = scanned(SplitPattern.of(name), data)
    assert b"".join(chunks) == data
    assert all(chunks)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(any_text, max_size=5), name=st.sampled_from(KNOWN))
def test_documents_are_cut_as_if_each_were_alone(texts, name):
    """Oracle: each document by itself."""
    pattern = SplitPattern.of(name)
    parts = [text.encode() for text in texts]
    ends = np.cumsum([len(part) for part in parts]).astype(np.int64)
    together = scanned(pattern, b"".join(parts), *ends.tolist()) if b"".join(parts) else []
    assert together == [chunk for part in parts for chunk in scanned(pattern, part)]


@settings(max_examples=200, deadline=None)
@given(text=any_text)
def test_several_expressions_cut_one_after_another(text):
    """Oracle: `SplitPattern.split`. The first is only known to `regex`, the second to the scanner as well."""
    pattern = SplitPattern.of([r"\p{N}", "gpt2"])
    assert [chunk.decode() for chunk in scanned(pattern, text.encode())] == pattern.split(text)


def test_no_expression_leaves_the_text_whole():
    assert scanned(SplitPattern.of([]), b"one two") == [b"one two"]
    assert scanned(SplitPattern.of([]), b"one two", 3, 3, 7, 7) == [b"one", b" two"]
    assert scanned(SplitPattern.of([]), b"", 0) == []


def test_tiktoken_and_tokenizers_ways_of_writing_a_pattern_are_recognised():
    """Else they would be run by `regex`, which is right but slow."""
    from tiktoken_ext import openai_public

    assert SplitPattern.of(openai_public.r50k_pat_str).name == "gpt2"
    llama = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    assert SplitPattern.of(llama).name == "llama3"
    assert SplitPattern.of(llama.replace("{1,3}", "")).name == "qwen"
    assert SplitPattern.of(PATTERNS["qwen"]).name == "qwen"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(TokenizerError, match="did you mean 'cl100k'"):
        SplitPattern.of("cl100")


def test_a_broken_expression_is_named():
    with pytest.raises(TokenizerError, match="not a regular expression"):
        SplitPattern.of(r"(\p{L}")


def test_a_lone_surrogate_is_no_character():
    """As tiktoken does: U+FFFD in its place, and a pair of surrogates is the character that they write."""
    assert utf8("a\ud800b") == "a\ufffdb".encode()
    assert utf8("\ud83d\ude00") == "😀".encode()
