import tracemalloc

import numpy as np
import pytest
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Peer

from penjing.errors import DataError, TokenizerError
from penjing.tokenizer import training
from penjing.tokenizer.bpe import BYTE_TO_CHARACTER, BytePairModel
from penjing.tokenizer.patterns import PATTERNS


def peer_merges(texts: list[str], vocab: int, pattern: str) -> list[tuple[str, str]]:
    """The merges that `tokenizers` learns."""
    import json

    peer = Peer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    peer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=alphabet)
    )
    return [tuple(pair) for pair in json.loads(peer.to_str())["model"]["merges"]]


def merges_of(model: BytePairModel) -> list[tuple[str, str]]:
    names = ["".join(map(BYTE_TO_CHARACTER.__getitem__, token)) for token in model.tokens]
    return [(names[left], names[right]) for left, right, _ in model.merges.tolist()]


CASES = [
    ("tinyshakespeare.txt", 300_000, 2000, "gpt2"),
    ("wiki_demo.txt", 300_000, 4000, "cl100k"),
    ("zh/hongloumeng.txt", 60_000, 2000, "penjing"),
    ("zh/sanguoyanyi.txt", 60_000, 1000, "o200k"),
    ("zh/poetry/shijing.json", 60_000, 1000, "llama3"),
    pytest.param("wikitext2/valid.txt", None, 8000, "gpt2", marks=pytest.mark.slow),
    pytest.param("zh/hongloumeng.txt", 250_000, 8000, "qwen", marks=pytest.mark.slow),
    pytest.param("gutenberg/moby_dick.txt", None, 32_000, "o200k", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("file", "characters", "vocab", "pattern"), CASES)
def test_the_merges_are_those_that_tokenizers_learns(data, file, characters, vocab, pattern):
    """Oracle: `tokenizers` on the same documents (the lines). Exact, in order, with every tie."""
    lines = (data / "text" / file).read_text(encoding="utf-8")[:characters].splitlines(keepends=True)
    model = training.train(lines, vocab, pattern=pattern)
    assert len(model.tokens) == vocab
    assert merges_of(model) == peer_merges(lines, vocab, pattern)


def test_learning_ends_where_no_pair_is_left():
    """Oracle: `tokenizers`, which runs dry at the same merge."""
    texts = ["abcabc abc", "b c", "aaaaa"]
    model = training.train(texts, 1000, pattern="gpt2")
    assert merges_of(model) == peer_merges(texts, 1000, "gpt2")
    assert len(model.tokens) < 300


def test_workers_blocks_and_the_order_of_documents_make_no_difference(data, tmp_path, monkeypatch):
    """Oracle: one worker, one block. English and Chinese files, cut into blocks of 3,000 bytes, reversed."""
    files = []
    for name in ("botchan_en.txt", "zh/hongloumeng.txt", "wiki_demo.txt"):
        file = tmp_path / name.replace("/", "-")
        file.write_text((data / "text" / name).read_text(encoding="utf-8")[:50_000], encoding="utf-8", newline="")
        files.append(file)
    for pattern in ("penjing", "gpt2", "o200k"):
        whole = training.train(files, 1500, pattern=pattern)
        monkeypatch.setattr(training, "BLOCK", 3000)
        assert np.array_equal(training.train(files[::-1], 1500, pattern=pattern, workers=3).merges, whole.merges)
        texts = [file.read_bytes().decode() for file in files]
        assert np.array_equal(training.train(texts, 1500, pattern=pattern, workers=2).merges, whole.merges)
        monkeypatch.undo()
    assert np.array_equal(training.train(tmp_path, 1500).merges, training.train(files, 1500).merges)


@pytest.mark.slow
def test_an_expression_of_ones_own_is_split_in_processes(data):
    """Oracle: one process, and the scanner, which knows the same pattern by another name."""
    text = (data / "text" / "botchan_en.txt").read_text(encoding="utf-8")[:30_000]
    lines = text.splitlines(keepends=True)
    own = PATTERNS["gpt2"] + r"|\p{Cs}"  # matches the same chunks, but is no known pattern
    known = training.train(lines, 600, pattern="gpt2")
    assert np.array_equal(training.train(lines, 600, pattern=own).merges, known.merges)
    assert np.array_equal(training.train(lines, 600, pattern=own, workers=2).merges, known.merges)


def test_memory_does_not_grow_with_the_corpus(data, tmp_path, monkeypatch):
    """Ten times the same text: the peak of allocated memory stays within 10 %."""
    monkeypatch.setattr(training, "BLOCK", 1 << 16)
    text = (data / "text" / "tinyshakespeare.txt").read_bytes()[:400_000]
    training.train(["compile first"], 300)
    peaks = []
    for times in (1, 10):
        file = tmp_path / f"{times}.txt"
        file.write_bytes(text * times)
        tracemalloc.start()
        training.train(file, 1000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_progress_is_told(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("one two three " * 1000)
    told: list[tuple[str, int, int]] = []
    training.train(file, 300, progress=lambda *what: told.append(what))
    assert ("counting chunks", 14_000, 14_000) in told
    assert told[-1] == ("learning merges", 44, 44)


def test_learning_can_be_stopped_from_another_thread():
    from penjing.tokenizer import merging

    stop = np.array([0, 1])
    symbols = np.array([1, 2, 1, 2], np.int32)
    assert len(merging.learn(symbols, np.array([4]), np.array([1]), 5, progress=stop)) == 0


def test_a_vocabulary_below_256_is_refused():
    with pytest.raises(TokenizerError, match="ask for 259 or more"):
        training.train(["text"], 97, reserved=3)


def test_a_vocabulary_that_no_tokenizer_can_have_is_refused_before_memory_is_taken():
    with pytest.raises(TokenizerError, match="1,000,000,000 is too large; ask for 1,048,575 at most"):
        training.train(["text"], 1_000_000_000 - 3, reserved=3)


@pytest.mark.parametrize("source", [[], [""], ["", ""]])
def test_an_empty_corpus_is_refused(source):
    with pytest.raises(TokenizerError, match="empty"):
        training.train(source, 300)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(TokenizerError, match="empty"):
        training.train(tmp_path, 300)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        training.train(tmp_path / "nowhere.txt", 300)


def test_a_folder_without_text_is_named(tmp_path):
    with pytest.raises(DataError, match="no text files"):
        training.train(tmp_path, 300)


@pytest.mark.parametrize("before", ["fine", "盆景" * 100])
def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path, monkeypatch, before):
    """The place is counted in bytes over all blocks; with "replace" the rest of the file is read."""
    monkeypatch.setattr(training, "BLOCK", 7)
    file = tmp_path / "latin.txt"
    file.write_bytes(before.encode() + b"caf\xe9 is here")
    with pytest.raises(DataError, match=rf"latin\.txt.*byte {len(before.encode()) + 3} is 0xE9"):
        training.train(file, 300)
    tokens = training.train(file, 400, errors="replace").tokens
    assert b" here" in tokens


def test_a_character_cut_off_at_the_end_of_a_file_is_not_utf8(tmp_path):
    file = tmp_path / "cut.txt"
    file.write_bytes("盆".encode()[:2])
    with pytest.raises(DataError, match="byte 0 is 0xE7"):
        training.train(file, 300)
