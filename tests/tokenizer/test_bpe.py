import base64
import json
import pickle
import random
from collections import Counter
from functools import cache

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public
from tokenizers import Tokenizer as Peer
from tokenizers import decoders, models, pre_tokenizers

from penjing.errors import TokenizerError
from penjing.tokenizer import encoding, merging
from penjing.tokenizer.bpe import BYTE_ORDER, BYTE_TO_CHARACTER, BytePairModel, encode_chunk, train
from penjing.tokenizer.counting import ChunkCounter
from tests.tokenizer.texts import WHOLE_OR_SLICE, corpus, hard_text

ENCODINGS = {"r50k_base": "gpt2", "cl100k_base": "cl100k", "o200k_base": "o200k"}
words = st.dictionaries(
    st.one_of(
        st.text(st.sampled_from("ab"), min_size=1, max_size=12).map(str.encode), st.binary(min_size=1, max_size=6)
    ),
    st.integers(1, 20),
    max_size=30,
)


def learnt(chunks: dict[bytes, int], merges: int) -> BytePairModel:
    """A model whose merges the fast trainer learnt from chunks."""
    counter = ChunkCounter()
    content = np.frombuffer(b"".join(chunks), np.uint8)
    ends = np.cumsum([len(chunk) for chunk in chunks]).astype(np.int64)
    counter.add(content, ends, np.array(list(chunks.values()), np.int64))
    order = np.empty(256, np.int32)
    order[list(BYTE_ORDER)] = np.arange(256)
    pairs = merging.learn(order[counter.content], counter.ends, counter.counts, merges)
    tokens = [bytes([byte]) for byte in BYTE_ORDER]
    for left, right in pairs.tolist():
        tokens.append(tokens[left] + tokens[right])
    return BytePairModel(tokens, np.column_stack([pairs, 256 + np.arange(len(pairs))]), [])


def pairs_of(model: BytePairModel) -> list[tuple[bytes, bytes]]:
    return [(model.tokens[left], model.tokens[right]) for left, right, _ in model.merges.tolist()]


@settings(max_examples=300, deadline=None)
@given(chunks=words, merges=st.integers(0, 40))
def test_the_fast_trainer_learns_what_the_readable_one_does(chunks, merges):
    """Oracle: `bpe.train`. Exact, ties included; small alphabets make many ties and overlaps."""
    assert pairs_of(learnt(chunks, merges)) == train(chunks, merges)


def test_long_runs_and_many_chunks_are_learnt_alike():
    """As above, with chunks long enough that lists, queue and tables have to grow."""
    rng = random.Random(1)
    chunks = Counter(bytes(rng.choices(b"abcdefgh", k=rng.randint(1, 60))) for _ in range(400))
    chunks[b"a" * 500] = 3
    assert pairs_of(learnt(chunks, 150)) == train(chunks, 150)


def test_a_chunk_is_counted_once_however_it_comes():
    """Oracle: `Counter`. Enough chunks that the table grows several times, in two counters of which one absorbs."""
    rng = random.Random(2)
    chunks = [rng.randbytes(rng.randint(1, 20)) for _ in range(60_000)] * 2 + [b"again"] * 1000
    first, second = ChunkCounter(), ChunkCounter()
    for counter, part in ((first, chunks[:70_000]), (second, chunks[70_000:])):
        counter.add(np.frombuffer(b"".join(part), np.uint8), np.cumsum([len(c) for c in part]).astype(np.int64))
    first.absorb(second)
    starts = [0, *first.ends.tolist()[:-1]]
    content = first.content.tobytes()
    keys = [content[start:end] for start, end in zip(starts, first.ends.tolist(), strict=True)]
    assert dict(zip(keys, first.counts.tolist(), strict=True)) == Counter(chunks)
    assert len(keys) == len(set(keys))


@cache
def small_model() -> BytePairModel:
    """Merges over a small alphabet, so that random chunks merge deeply and in competing ways."""
    rng = random.Random(3)
    chunks = Counter(bytes(rng.choices(b"abc ", k=rng.randint(1, 14))) for _ in range(600))
    return learnt(chunks, 200)


@settings(max_examples=300, deadline=None)
@given(chunk=st.text(st.sampled_from("abc "), max_size=400).map(str.encode))
def test_the_fast_encoder_merges_as_the_readable_one(chunk):
    """Oracle: `bpe.encode_chunk`. Exact; chunks up to 400 bytes take both ways, the short and the long."""
    model = small_model()
    order = {pair: rank for rank, pair in enumerate(pairs_of(model))}
    assert [model.tokens[number] for number in model.encode_bytes(chunk)] == encode_chunk(chunk, order)


def test_a_long_chunk_gives_the_same_by_either_way():
    """The way of short chunks and that of long ones, on the same chunks of 2 to 128 bytes."""
    model, rng = small_model(), random.Random(4)
    tables = model._encoder._tables
    for length in range(2, 129):
        chunk = np.frombuffer(bytes(rng.choices(b"abc ", k=length)), np.uint8)
        work = tuple(np.empty(128, np.int32) for _ in range(4))
        count = encoding._merge_short(chunk, 0, length, tables, work)
        assert work[0][:count].tolist() == encoding._merge_long(chunk, 0, length, tables).tolist()


def test_a_megabyte_without_a_space_takes_no_quadratic_time():
    """A million equal letters: quadratic work would take hours, the queue takes a second."""
    model = small_model()
    ids = model.encode_bytes(b"ab" * 500_000)
    assert model.decode_bytes(ids.tolist()) == b"ab" * 500_000


def test_a_memory_that_overflows_is_emptied_and_nothing_changes(monkeypatch):
    """Oracle: an encoder with room for everything."""
    rng = random.Random(5)
    text = "".join(rng.choices("abc  ", k=50_000))
    model = small_model()
    spacious = BytePairModel(model.tokens, model.merges, "gpt2").encode(text)
    monkeypatch.setattr(encoding, "_SLOTS", 64)
    monkeypatch.setattr(encoding, "_POOL", 256)
    tight = BytePairModel(model.tokens, model.merges, "gpt2")
    assert np.array_equal(tight.encode(text), spacious)
    assert np.array_equal(tight.encode(text), spacious)


@cache
def openai(data, name: str) -> tuple[BytePairModel, tiktoken.Encoding]:
    lines = (data / "tokenizer" / f"{name}.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    original = openai_public.load_tiktoken_bpe
    openai_public.load_tiktoken_bpe = lambda *_, **__: ranks
    try:
        settings = openai_public.ENCODING_CONSTRUCTORS[name]()
    finally:
        openai_public.load_tiktoken_bpe = original
    return BytePairModel.from_ranks(ranks, settings["pat_str"]), tiktoken.Encoding(**settings)


@WHOLE_OR_SLICE
@pytest.mark.parametrize("name", ENCODINGS)
def test_real_text_has_the_ids_that_tiktoken_gives(data, name, characters):
    """Oracle: tiktoken with its own pattern, over all texts. Exact."""
    model, peer = openai(data, name)
    assert model.pattern.name == ENCODINGS[name]
    for file, text in corpus(data, characters):
        assert model.encode(text).tolist() == peer.encode_ordinary(text), file


@pytest.mark.parametrize("name", ENCODINGS)
@settings(max_examples=200, deadline=None)
@given(text=hard_text())
def test_hard_text_has_the_ids_that_tiktoken_gives(data, name, text):
    """Oracle: tiktoken, on every kind of character, lone surrogates aside. Exact."""
    model, peer = openai(data, name)
    assert model.encode(text).tolist() == peer.encode_ordinary(text)


@settings(max_examples=300, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), hard_text().map(str.encode)))
def test_any_bytes_come_back(data, content):
    """Round trip of arbitrary bytes, UTF-8 or not."""
    model, _ = openai(data, "cl100k_base")
    assert model.decode_bytes(model.encode_bytes(content).tolist()) == content


def peer_of(model: BytePairModel) -> Peer:
    """The same vocabulary in `tokenizers`, from the sections that go into a tokenizer.json."""
    peer = Peer(models.BPE())
    document = json.loads(peer.to_str()) | model.sections()
    return Peer.from_str(json.dumps(document))


@pytest.mark.parametrize("whole", [False, True])
def test_ids_in_any_order_merge_as_tokenizers_merges_them(data, whole):
    """Oracle: `tokenizers`, with ids that say nothing of the order of merges, and with `ignore_merges`. Exact."""
    model, _ = openai(data, "r50k_base")
    rng = random.Random(6)
    new_ids = list(range(3000))
    rng.shuffle(new_ids)
    merges = [row for row in model.merges.tolist() if max(row) < 3000]
    merges = [row for row in merges if not whole or row[2] % 7]  # tokens that no merge makes are then whole chunks
    tokens = [b""] * 3000
    for old, new in enumerate(new_ids):
        tokens[new] = model.tokens[old]
    renamed = [[new_ids[number] for number in row] for row in merges]
    ours = BytePairModel(tokens, renamed, "gpt2", whole_chunks=whole)
    peer = peer_of(ours)
    for _, text in corpus(data, 2000):
        assert ours.encode(text).tolist() == peer.encode(text, add_special_tokens=False).ids


def test_the_merges_of_ranks_are_every_way_to_join_two_tokens(data):
    """Oracle: a dictionary look-up of every way to cut every token of r50k."""
    model, _ = openai(data, "r50k_base")
    ids = {token: number for number, token in enumerate(model.tokens)}
    expected = []
    for number, token in enumerate(model.tokens):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        expected += sorted([ids[left], ids[right], number] for left, right in cuts if left in ids and right in ids)
    assert model.merges.tolist() == expected


def test_a_model_travels_to_another_process_without_its_tables(data):
    """A pickled model gives the same ids; the tables (megabytes) are built anew where they are needed."""
    model, _ = openai(data, "r50k_base")
    ids = model.encode("to be or not to be")
    packed = pickle.dumps(model)
    assert len(packed) < 2_000_000
    assert np.array_equal(pickle.loads(packed).encode("to be or not to be"), ids)


def test_bytes_are_written_as_gpt2_writes_them():
    """Oracle: `tokenizers`' alphabet and its decoder."""
    assert set(BYTE_TO_CHARACTER.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    text = "".join(BYTE_TO_CHARACTER[byte] for byte in "盆景 é\n".encode())
    assert decoders.ByteLevel().decode([text]) == "盆景 é\n"
    assert sorted(BYTE_ORDER, key=BYTE_TO_CHARACTER.__getitem__) == list(BYTE_ORDER)


def test_a_text_may_need_normalizing_first(data):
    model, _ = openai(data, "r50k_base")
    composed = BytePairModel(model.tokens, None, "gpt2", whole_chunks=True, normalization="NFC")
    assert composed.encode("e\u0301").tolist() == model.encode("é").tolist() != model.encode("e\u0301").tolist()
    with pytest.raises(TokenizerError, match="did you mean 'NFC'"):
        BytePairModel(model.tokens, None, "gpt2", normalization="NFCC")


def test_a_byte_that_the_vocabulary_lacks_is_an_error():
    model = BytePairModel([b"a", b"b", b"ab"], [(0, 1, 2)], "gpt2")
    assert model.encode("abba").tolist() == [2, 1, 0]
    with pytest.raises(TokenizerError, match="no token for"):
        model.encode("abc")


def test_a_merge_of_a_token_that_is_not_there_is_an_error():
    with pytest.raises(TokenizerError, match="names id 7"):
        BytePairModel([b"a", b"b"], [(0, 1, 7)], "gpt2")


def test_the_empty_text_has_no_ids():
    assert small_model().encode("").tolist() == []
    assert small_model().decode_bytes([]) == b""
