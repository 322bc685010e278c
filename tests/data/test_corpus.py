"""Corpora: what is a document in every kind of file, what is refused, and which side of the split a document is on."""

import gzip
import json
import struct
import sys
import tracemalloc
from types import SimpleNamespace

import pyarrow
import pytest
import regex
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from penjing.data import corpus
from penjing.data.corpus import Corpus, Document, documents, is_validation
from penjing.data.places import files_in
from penjing.errors import DataError
from penjing.tokenizer.patterns import PATTERNS


def texts(source, **options) -> list[str]:
    return [document.text for document in documents(source, **options)]


# what a document is


def test_a_text_file_without_separator_is_one_document_kept_exactly(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("\n\nOne.\n\nTwo.\n")
    assert list(documents(file)) == [Document("\n\nOne.\n\nTwo.\n", str(file))]


def test_separators_make_documents_and_take_the_line_ends_around_them(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one\n<|endoftext|>\n\ntwo\nlines\n<|endoftext|>\n  \n<|endoftext|>three\n")
    found = list(documents(file))
    assert [d.text for d in found] == ["one", "two\nlines", "three"]
    assert found[2].origin.endswith("a.txt, document 4")  # the blank one is left out, but counted
    assert texts(file, separator="\n")[-4:] == ["two", "lines", "<|endoftext|>", "<|endoftext|>three"]
    assert len(texts(file, separator=None)) == 1


def test_a_byte_order_mark_and_carriage_returns_are_no_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert texts(file) == ["one\ntwo\nthree\n"]


def test_other_encodings_are_read_when_named(tmp_path):
    file = tmp_path / "红楼梦.txt"
    file.write_bytes("此开卷第一回也".encode("gb18030"))
    assert texts(file, encoding="gb18030") == ["此开卷第一回也"]
    file.write_bytes("此开卷第一回也".encode("utf-16"))
    assert texts(file, encoding="utf-16") == ["此开卷第一回也"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "你好 world", ["你好 world"]),
        ("a.md", "# Title", ["# Title"]),
        (
            "a.jsonl",
            '{"text": "one"}\n\n{"text": ["two", "lines"]}\n"three"\n{"text": null}\n',
            ["one", "two\nlines", "three"],
        ),
        ("a.json", '[{"text": "one"},\n {"text": "two"}]', ["one", "two"]),
        ("b.json", '{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
        ("c.json", "\ufeff [ ]  ", None),
    ],
)
def test_every_kind_of_file_compressed_or_not(tmp_path, name, content, expected, suffix):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    file = tmp_path / (name + suffix)
    file.write_bytes(pack(content.encode()))
    if expected is None:
        with pytest.raises(DataError, match="no text in"):
            texts(file)
    else:
        assert texts(file) == expected


def test_a_zst_file_may_have_several_frames_and_frames_to_skip(tmp_path):
    """As `zstd a b > c` and parallel compressors write them; three frames of text, one of them of 600 kB, one empty."""
    skipped = b"\x50\x2a\x4d\x18" + struct.pack("<I", 6) + b"ignore"
    long = "".join(f"line {i}\n" for i in range(60_000))
    frames = [
        skipped,
        zstandard.compress(b"first\n"),
        zstandard.compress(b""),
        zstandard.compress(long.encode()),
        skipped,
    ]
    (tmp_path / "a.txt.zst").write_bytes(b"".join(frames))
    assert texts(tmp_path) == ["first\n" + long]


def test_parquet_is_read_by_row_groups(tmp_path):
    file = tmp_path / "a.parquet"
    table = pyarrow.table({"body": [f"text {i}" for i in range(5000)], "other": range(5000)})
    parquet.write_table(table, file, row_group_size=700)
    found = list(documents(file, field="body"))
    assert [d.text for d in found] == [f"text {i}" for i in range(5000)]
    assert found[4999].origin == f"{file}, row 5000"
    with pytest.raises(DataError, match="no column 'text'; this table has: body, other"):
        texts(file)
    file.write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="not a parquet file"):
        texts(file)


def test_a_folder_is_read_in_sorted_order_without_hidden_and_foreign_files(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b/c.jsonl", ".hidden.txt", ".git/x.txt", "picture.png", "B.TXT"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(name))
    # files of a folder come before those of the folders in it
    assert [json.loads(t) if t.startswith('"') else t for t in texts(tmp_path)] == [
        "B.TXT",
        "b.txt",
        "a/z.md",
        "a/b/c.jsonl",
    ]
    assert texts([tmp_path / "b.txt", str(tmp_path / "B.TXT")]) == ['"b.txt"', '"B.TXT"']


def test_a_folder_is_read_without_the_runs_in_it(tmp_path):
    """`--data .` with the default `--out`: neither a run's report nor what its stages made is text to train on."""
    run = tmp_path / "runs" / "mine"
    for name in ("novel.txt", "runs/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = list(files_in(tmp_path))
    for name in ("world/stage.json", "world/train.jsonl", "pretrain/model/config.json", "report.md"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text('{"text": "made"}')
    assert texts(tmp_path) == ["novel.txt", "runs/notes.txt"]
    assert list(files_in(tmp_path)) == before  # so a run's data is the same before it and after
    assert texts(run / "world" / "train.jsonl") == ["made"]  # what is asked for by name is read
    assert list(files_in(run / "pretrain")) == [run / "pretrain" / "model" / "config.json"]


def test_hugging_face_datasets_are_streamed(monkeypatch):
    calls = []

    def load_dataset(name, config, *, split, streaming):
        calls.append((name, config, split, streaming))
        return iter([{"text": "one"}, {"text": ""}, {"text": "two"}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = list(documents("hf:org/name:en:test"))
    assert [d.text for d in found] == ["one", "two"]
    assert found[1].origin == "hf:org/name:en:test, row 3"
    assert texts("hf:org/name") == ["one", "two"]
    assert calls == [("org/name", "en", "test", True), ("org/name", None, "train", True)]
    with pytest.raises(DataError, match="hf:NAME:CONFIG:SPLIT"):
        texts("hf:a:b:c:d")
    with pytest.raises(DataError, match="no field 'body'; this record has: text"):
        texts("hf:org/name", field="body")


def test_without_the_extra_hugging_face_sources_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # makes the import fail
    with pytest.raises(DataError, match=r"pip install penjing\[datasets\]"):
        texts("hf:org/name")


# what is refused


# without the time of packing: two processes must give the same test the same name
CUT_SHORT = gzip.compress(b"text" * 1000, mtime=0)[:-9]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good \xff bad", r"a\.txt, byte 5: 0xff is not utf-8 text"),
        ("a.txt", b"x" * 1048575 + b"\xe4\xbd\x41", r"byte 1048575: 0xe4 is not"),
        ("a.txt", b"cut short \xe4\xbd", r"byte 10: 0xe4"),
        ("a.txt", b" \n\n", r"there is no text in .*a\.txt"),
        ("a.pdf", b"%PDF", r"a\.pdf: unknown kind of file '\.pdf'"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "two"\n', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b'"one"\n{"body": "two", "id": 3}\n', r"line 2: no field 'text'; this record has: body, id"),
        ("a.jsonl", b'{"text": 5}\n', r"line 1: 'text' is of type int"),
        ("a.jsonl", b'\n{"text": "\xff"}\n', r"line 2, byte 10: 0xff"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', r"line 1: half a character"),
        ("a.jsonl", b"[" * 100_000, r"line 1: not valid JSON \(nested too deep\)"),
        ("a.json", b'[{"text": "one"},\n{"text" "two"}]', r"a\.json, line 2: not valid JSON \(Expecting ':'"),
        ("a.json", b'[{"text": "one"}\n{"text": "two"}]', r"line 2: not valid JSON \(a comma is missing"),
        ("a.json", b'[{"text": "one"},\n{"text": "tw', r"line 2: not valid JSON \(Unterminated string"),
        ("a.json", b'[{"text": "one"}', r"the list has no end; it breaks off after record 1"),
        ("a.json", b'["one"]\n["two"]', r"line 2: not valid JSON \(there is more text"),
        ("a.txt.gz", CUT_SHORT, r"damaged or cut short"),
        ("a.txt.gz", b"no gzip at all", r"damaged or cut short"),
        ("a.txt.zst", b"no zstandard at all", r"damaged or cut short"),
        ("a.txt.zst", zstandard.compress(b"text" * 1000)[:-3], r"cut short \(its last frame has no end\)"),
        ("a.txt.zst", zstandard.compress(b"whole") + zstandard.compress(b"text" * 1000)[:5], r"last frame has no end"),
        ("a.jsonl.zst", zstandard.compress(b'"one"\n"two"\n')[:-1], r"last frame has no end"),
        ("a.txt.gz", gzip.compress(b"whole", mtime=0) + CUT_SHORT, r"damaged or cut short"),
        ("a.txt.gz", b"", r"cut short \(it is empty\)"),
        ("a.txt.zst", b"", r"cut short \(it is empty\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts(file)


def test_missing_sources_and_bad_options_are_said(tmp_path):
    with pytest.raises(DataError, match="there is no file or folder"):
        texts(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"no file to read in .*; known kinds: \.txt"):
        texts(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="no text encoding named 'utf8x'"):
        texts(tmp_path, encoding="utf8x")
    with pytest.raises(DataError, match="did you mean 'replace'"):
        texts(tmp_path, errors="repalce")
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        Corpus(tmp_path).split(1.0)


def test_replacing_reads_what_strictness_refuses(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\xffb")
    (tmp_path / "b.jsonl").write_bytes(b'"c\xffd"\n"\\ud83d"\n')
    assert texts(tmp_path, errors="replace") == ["a\ufffdb", "c\ufffdd", "?"]


# streaming


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.text(alphabet="ab\n <|é红", max_size=80), max_size=6),
    st.integers(20, 60),
    st.integers(1, 40),
)
def test_pieces_of_long_documents_are_the_document_whatever_the_sizes(tmp_path_factory, parts, piece, block):
    """Streamed = whole: pieces joined are the parts of `str.split`, their outer line ends and blank parts aside."""
    file = tmp_path_factory.mktemp("pieces") / "a.txt"
    whole = "<|endoftext|>".join(parts)
    file.write_bytes(whole.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "PIECE", piece)
        patch.setattr(corpus.streams, "BLOCK", block)
        try:
            found = list(documents(file))
        except DataError:
            found = []
    joined, key = [""], ""
    for document in found:
        assert len(document.text) <= piece + len(corpus.END_OF_TEXT) + block  # what a block ends is not cut
        assert document.text
        assert not key or document.key == key
        joined[-1] += document.text
        key = document.key if document.continues else ""
        if not document.continues:
            joined.append("")
    assert joined.pop() == ""
    expected = whole.split("<|endoftext|>")
    assert [text.strip("\n") for text in joined if text.strip()] == [t.strip("\n") for t in expected if t.strip()]
    if len(expected) == 1 and expected[0].strip():
        assert joined == expected


def test_long_documents_are_cut_where_split_patterns_cut(tmp_path, monkeypatch):
    """Each pattern finds the same pre-tokens in the pieces as in the whole; oracle: the pattern on the whole."""
    patterns = [regex.compile(expression) for expression in PATTERNS.values()]
    monkeypatch.setattr(corpus, "PIECE", 2000)
    line = "It was the best of times, it was the worst of times;\n"
    for text in (line * 300, line.replace("\n", "\n\n") * 300, line.strip("\n").replace(".", "") * 300):
        (tmp_path / "a.txt").write_text(text)
        pieces = texts(tmp_path / "a.txt")
        assert len(pieces) > 5
        assert "".join(pieces) == text
        for pattern in patterns:
            assert [t for piece in pieces for t in pattern.findall(piece)] == pattern.findall(text)


def test_memory_stays_flat_whatever_the_size(tmp_path):
    """A text of 24 MB and a JSON list of 6 MB are read in under 16 MB."""
    line = json.dumps({"text": "x" * 2000})
    with gzip.open(tmp_path / "a.txt.gz", "wt", compresslevel=1) as file:
        for _ in range(120):
            file.write("word " * 40_000)
    with gzip.open(tmp_path / "b.json.gz", "wt", compresslevel=1) as file:
        file.write("[" + ",".join([line] * 3000) + "]")
    tracemalloc.start()
    characters = sum(len(document.text) for document in documents(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert characters == 120 * 200_000 + 3000 * 2000
    assert peak < 16e6


# the split


def test_many_documents_are_split_by_their_text(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"document {i % 900}"}) + "\n" for i in range(1000)))
    train, validation = Corpus(file).split(0.1, seed=3)
    sides = [{d.text for d in train}, {d.text for d in validation}]
    assert not sides[0] & sides[1]  # copies are on one side
    assert len(sides[0] | sides[1]) == 900
    assert 50 < len(sides[1]) < 130
    assert sides[1] == {d.text for d in validation}  # it can be read again
    assert sides[1] != {d.text for d in Corpus(file).split(0.1, seed=4)[1]}


def test_the_split_is_the_same_on_every_machine():
    """Golden: documents 0 .. 99 of seed 0 on the validation side at 0.1, as this test first saw them."""
    chosen = [i for i in range(100) if is_validation(Document(f"document {i}"), 0.1)]
    assert chosen == [4, 9, 19, 26, 38, 50, 73, 92, 94, 99]


@pytest.mark.parametrize("length", [30, 99, 100, 101, 110, 113, 114, 300])
def test_copies_are_on_one_side_whatever_file_they_are_in(length, tmp_path, monkeypatch):
    """The same text as first, middle and last part of a text file, as a file of its own and as a record; in pieces of
    100 characters where it is longer."""
    monkeypatch.setattr(corpus, "PIECE", 100)
    monkeypatch.setattr(corpus.streams, "BLOCK", 64)
    sides = set()
    for number in range(12):
        text = f"{number} " + "".join(f"{i} " for i in range(length))[: length - 4] + "!"
        (tmp_path / "a.txt").write_text(f"\n{text}\n<|endoftext|>\n{text}\n<|endoftext|>\n{text}\n")
        (tmp_path / "b.txt").write_text(text + "\n")
        (tmp_path / "c.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": text + "\n"}))
        found = list(documents(tmp_path))
        assert sum(not document.continues for document in found) == 6
        side = {is_validation(document, 0.5) for document in found}
        assert len(side) == 1
        sides |= side
    assert sides == {True, False}


def test_few_documents_are_split_by_position(tmp_path, monkeypatch):
    """As nanoGPT does: the first int(n * 0.9) characters train. Pieces make no difference."""
    book = "".join(f"line {i}\n" for i in range(200))
    (tmp_path / "a.txt").write_text(book)
    (tmp_path / "b.txt").write_text("short")
    for piece in (corpus.PIECE, 64):
        monkeypatch.setattr(corpus, "PIECE", piece)
        sides = []
        for side in Corpus(tmp_path).split(0.1):
            found = [""]
            for document in side:
                found[-1] += document.text
                if not document.continues:
                    found.append("")
            assert found.pop() == ""
            sides.append(found)
        border = int(len(book) * 0.9)
        assert sides == [[book[:border], "shor"], [book[border:], "t"]]


def test_shakespeare_is_split_where_nanogpt_splits_it(data):
    """nanoGPT's data/shakespeare_char: 1,003,854 characters to train on, 111,540 to validate."""
    train, validation = Corpus(data / "text" / "tinyshakespeare.txt").split(0.1)
    assert [sum(len(d.text) for d in side) for side in (train, validation)] == [1_003_854, 111_540]


def test_real_texts_are_read(data):
    """Every text file of the data is read; Chinese poems by the name of their field."""
    for file in ("gutenberg", "zh/hongloumeng.txt", "wiki_demo.txt", "c4_demo.jsonl", "tinystories_sample.txt"):
        assert sum(1 for _ in documents(data / "text" / file)) >= 1
    poems = list(documents(data / "text" / "zh" / "poetry" / "tang300.json", field="paragraphs"))
    assert len(poems) == 366
    assert poems[0].text.startswith("獨有宦遊人") or "\n" in poems[0].text
    with pytest.raises(
        DataError, match=r"tang300\.json, record 1: no field 'text'; this record has: author, paragraphs"
    ):
        texts(data / "text" / "zh" / "poetry" / "tang300.json")
