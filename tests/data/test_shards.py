"""Token shards: what is written is read again, whatever the files' size and the threads; damage is seen."""

import errno
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.data import shards
from penjing.data.corpus import Document
from penjing.data.shards import Shards
from penjing.errors import DataError, PenjingError
from penjing.tokenizer.tokenizer import Tokenizer

from .conftest import BYTES, EOS

TEXTS = ["Once", "", "upon a time", "从前有座山"]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.text(alphabet="ab é红", max_size=30), min_size=1, max_size=8), st.integers(20, 90), st.integers(1, 3)
)
def test_every_document_comes_back_from_files_of_any_size(tokenizer, tmp_path_factory, texts, file_tokens, workers):
    """Oracle: the texts themselves; decoded and counted byte by byte."""
    folder = tmp_path_factory.mktemp("shards") / "s"
    shards.write(texts, tokenizer, folder, file_tokens=file_tokens, workers=workers)
    opened = Shards.open(folder, tokenizer)
    opened.verify()
    ids = [i for text in texts for i in [*text.encode(), EOS]]
    assert (opened.documents, opened.tokens, opened.bytes) == (
        len(texts),
        len(ids),
        sum(len(t.encode()) for t in texts),
    )
    assert len(list(folder.glob("tokens-*.bin"))) == -(-len(ids) // file_tokens)
    assert [tokenizer.decode(opened.document(i)[:-1]) for i in range(len(texts))] == texts
    assert [opened.document_bytes(i) for i in range(len(texts))] == [len(t.encode()) for t in texts]
    assert opened.ends.tolist() == np.cumsum([len(t.encode()) + 1 for t in texts]).tolist()
    for start in range(len(ids)):
        for stop in range(start + 1, len(ids) + 1, 3):
            assert opened.read(start, stop).tolist() == ids[start:stop]


def test_threads_do_not_change_a_byte(shards_of):
    texts = [f"document {i} " * (i % 50) for i in range(3000)]
    one, many = shards_of(texts, "one"), shards_of(texts, "many", workers=4)
    assert one.header == many.header
    assert one.fingerprint == many.fingerprint


def test_pieces_of_a_document_are_one_document_and_arrays_are_taken_as_they_are(shards_of):
    made = shards_of(
        [
            Document("Once upon", continues=True),
            Document(" a time"),
            np.array([65, 66]),
            np.array([67, EOS]),
            Document("left", continues=True),  # as when a caller stops in the middle of a document
        ]
    )
    documents = [made.document(i).tolist() for i in range(made.documents)]
    assert documents == [[*b"Once upon a time", EOS], [65, 66, EOS], [67, EOS], [*b"left", EOS]]
    assert [made.document_bytes(i) for i in range(4)] == [16, 2, 1, 4]


def test_documents_begin_as_the_model_expects(tmp_path):
    """Llama 2 and its like expect the begin token before each document, but only once."""
    special = {"<s>": 256, "</s>": 257}
    llama = Tokenizer(BYTES, special_tokens=special, bos="<s>", eos="</s>", adds_bos=True)
    pieces = [Document("a", continues=True), Document("b"), np.array([256, 99]), ""]
    made = shards.write(pieces, llama, tmp_path / "s")
    assert [made.document(i).tolist() for i in range(3)] == [[256, 97, 98, 257], [256, 99, 257], [256, 257]]
    assert made.bytes == 3


def test_documents_begin_with_all_tokens_that_the_model_expects(tmp_path):
    """ChatGLM expects two; a document that has them keeps them, one that has the first alone gets both."""
    special = {"[gMASK]": 256, "sop": 257, "</s>": 258}
    glm = Tokenizer(BYTES, special_tokens=special, eos="</s>", prefix=["[gMASK]", "sop"])
    made = shards.write(["a", np.array([256, 257, 98]), np.array([256, 99])], glm, tmp_path / "s")
    documents = [made.document(i).tolist() for i in range(3)]
    assert documents == [[256, 257, 97, 258], [256, 257, 98, 258], [256, 257, 256, 99, 258]]


def test_large_vocabularies_take_four_bytes(tmp_path):
    big = Tokenizer(BYTES, special_tokens={"<|endoftext|>": 70_000}, eos="<|endoftext|>")
    made = shards.write(["ab"], big, tmp_path / "s")
    assert made.document(0).tolist() == [97, 98, 70_000]
    assert (tmp_path / "s" / "tokens-00000.bin").stat().st_size == 12


def test_memory_stays_flat_whatever_the_size(tokenizer, tmp_path):
    """15 MB of text through a generator and two threads need less than 12 MB."""
    text = "word " * 2000
    tracemalloc.start()
    made = shards.write((text for _ in range(1500)), tokenizer, tmp_path / "s", workers=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.tokens == 1500 * 10_001
    assert peak < 12e6


def test_progress_is_told_in_bytes_of_text(tokenizer, tmp_path):
    told: list[int] = []
    shards.write(["红" * 200_000] * 3, tokenizer, tmp_path / "s", progress=told.append)
    assert told[-1] == 3 * 600_000
    assert told == sorted(told)


# what is refused


def test_damage_is_seen_when_opening_or_verifying(shards_of, tokenizer):
    folder = shards_of(TEXTS, file_tokens=10).folder
    first = folder / "tokens-00000.bin"
    content = first.read_bytes()
    first.write_bytes(b"\x41" + content[1:])
    with pytest.raises(DataError, match=r"tokens-00000\.bin is damaged: its SHA-256"):
        Shards.open(folder).verify()
    first.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"it has 19 bytes, not 20; write the shards anew"):
        Shards.open(folder)
    first.unlink()
    with pytest.raises(DataError, match=r"tokens-00000\.bin is missing"):
        Shards.open(folder)
    header = (folder / "header.json").read_text()
    for one, other in (
        ('"tokens": 34', '"tokens": "many"'),
        ('"file_tokens": 10', '"file_tokens": 0'),
        ('"eos_id": 256,', ""),
    ):
        assert one in header
        (folder / "header.json").write_text(header.replace(one, other))
        with pytest.raises(DataError, match="the header is damaged"):
            Shards.open(folder)
    (folder / "header.json").write_text('{"format": "something else"}')
    with pytest.raises(DataError, match="not a header of"):
        Shards.open(folder)
    with pytest.raises(DataError, match="there are no token shards in"):
        Shards.open(folder.parent)


def test_shards_of_another_tokenizer_are_refused(shards_of):
    folder = shards_of(TEXTS).folder
    other = Tokenizer(BYTES, special_tokens={"<|endoftext|>": 256, "<|im_start|>": 258}, eos="<|endoftext|>")
    with pytest.raises(DataError, match="written with another tokenizer"):
        Shards.open(folder, other)


def test_what_cannot_be_written_is_said_and_nothing_is_lost(tokenizer, tmp_path):
    with pytest.raises(DataError, match="there is no document to write"):
        shards.write([], tokenizer, tmp_path / "s")
    with pytest.raises(DataError, match="no token that ends a document"):
        shards.write(["a"], Tokenizer(BYTES), tmp_path / "s")
    with pytest.raises(DataError, match="a document: half a character"):
        shards.write(["\ud83d"], tokenizer, tmp_path / "s")
    with pytest.raises(DataError, match="ids from -1 to 5; the vocabulary has 259"):
        shards.write([np.array([5, -1])], tokenizer, tmp_path / "s")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds no token shards; name another folder"):
        shards.write(["a"], tokenizer, tmp_path / "mine")
    assert not (tmp_path / "s").exists()
    with pytest.raises(DataError, match="there is no document 1; there are 1"):
        shards.write(["a"], tokenizer, tmp_path / "s").document(1)


@pytest.mark.parametrize("workers", [1, 3])
def test_shards_that_were_there_survive_a_failure(tokenizer, tmp_path, workers):
    before = shards.write(["kept"], tokenizer, tmp_path / "s")

    def failing():
        yield "x" * 1_000_000
        raise DataError("the corpus broke")

    with pytest.raises(PenjingError, match="the corpus broke"):
        shards.write(failing(), tokenizer, tmp_path / "s", workers=workers)
    assert Shards.open(tmp_path / "s").fingerprint == before.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert shards.write(["new"], tokenizer, tmp_path / "s").document(0).tolist() == [*b"new", EOS]


def test_a_full_disk_is_said_and_nothing_is_lost(tokenizer, tmp_path, monkeypatch):
    before = shards.write(["kept"], tokenizer, tmp_path / "s")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards.Writer, "_put", full)
    with pytest.raises(PenjingError, match=r"could not be written: No space left on device"):
        shards.write(["new"], tokenizer, tmp_path / "s")
    assert Shards.open(tmp_path / "s").fingerprint == before.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
