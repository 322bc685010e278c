"""Loaders: targets, positions, masks and borders; the same batches after a resume, on any machine, for any ranks."""

import hashlib
import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.data import packing, shards
from penjing.data.loader import PackedLoader, assemble, validation_batches, windows
from penjing.data.packing import PACKINGS
from penjing.errors import ConfigError, DataError

from .conftest import EOS

TEXTS = [f"{i}:" + chr(97 + i % 26) * (i * 7 % 41) for i in range(60)]
WHOLE = [[*text.encode(), EOS] for text in TEXTS]
STRETCHES = {(bytes(ids[i:j]), ids[j]) for ids in WHOLE for j in range(1, len(ids)) for i in range(j)}
"""Every part of a document with the token that follows it."""


def loader_of(data, **options) -> PackedLoader:
    return PackedLoader.Config(**({"batch": 3, "context": 16, "seed": 5} | options)).build(data)


def same(one, two) -> bool:
    """Whether two batches agree in every tensor, bit for bit, and in their origin."""
    pairs = [
        (getattr(one, name), getattr(two, name)) for name in ("tokens", "targets", "mask", "positions", "documents")
    ]
    return one.origin == two.origin and all(
        a is b if a is None or b is None else a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs
    )


def predictions(batches) -> list[tuple[bytes, int]]:
    """What each counted position sees of its own document, and what it is to predict; from the tensors alone."""
    found = []
    for batch in batches:
        positions, documents = batch.positions, batch.documents
        if documents is None:  # each row is one unpadded document
            positions = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
            documents = torch.zeros_like(batch.tokens)
        parts = (batch.tokens, batch.targets, batch.mask, positions, documents)
        for tokens, targets, mask, positions, documents in zip(*(part.tolist() for part in parts), strict=True):
            for place, position in enumerate(positions):
                begin = place - position
                assert set(documents[begin : place + 1]) == {documents[place]}
                assert begin == 0 or documents[place] == -1 or documents[begin - 1] != documents[begin]
                if mask[place]:
                    found.append((bytes(tokens[begin : place + 1]), targets[place]))
    return found


def test_the_picture_of_a_batch(shards_of):
    """The two documents of `data/batch.py`'s picture by hand, with a third that leaves a place to padding."""
    data = shards_of([np.array([7, 4, 9]), np.array([5, 2, 8, 8]), np.array([1, 2, 3])])
    batch = next(loader_of(data, batch=2, context=7, seed=0))
    full = 0 if batch.tokens[0, 0] == 5 else 1
    assert batch.tokens[full].tolist() == [5, 2, 8, 8, 7, 4, 9]
    assert batch.targets[full].tolist() == [2, 8, 8, EOS, 4, 9, EOS]
    assert batch.positions[full].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert batch.documents[full].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert batch.documents[1 - full].tolist() == [0, 0, 0, -1, -1, -1, -1]
    assert batch.mask[1 - full].tolist() == [True] * 3 + [False] * 4
    assert batch.weight == 10
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64


def test_a_stream_window_that_crosses_a_border(shards_of):
    """The end token is predicted but no input: nothing follows it. Its place is left for padding."""
    data = shards_of(["abc", "de", "f"])
    (batch,) = validation_batches(data, context=7, batch=2)
    assert batch.tokens.tolist() == [[*b"abcde", 0, 0], [*b"f", 0, 0, 0, 0, 0, 0]]
    assert batch.targets.tolist() == [[*b"bc", EOS, *b"e", EOS, 0, 0], [EOS, 0, 0, 0, 0, 0, 0]]
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, -1, -1], [0, -1, -1, -1, -1, -1, -1]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0]]
    assert batch.mask.int().tolist() == [[1, 1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0]]


def test_rows_of_one_unpadded_document_need_no_positions(shards_of):
    batch = next(loader_of(shards_of(["x" * 500]), packing="random"))
    assert batch.positions is None
    assert batch.documents is None
    assert batch.mask.all()


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(["best_fit", "padded", "stream"]), st.integers(4, 40), st.integers(1, 4), st.integers(99, 999))
def test_an_epoch_teaches_each_document_once_and_nothing_else(
    tokenizer, tmp_path_factory, name, context, batch, file_tokens
):
    """From the tensors alone: each counted position sees a stretch of its document and predicts the next token of it.

    Oracle: the texts. Documents no longer than a row are seen from their beginning (best_fit and padded).
    """
    data = shards.write(TEXTS, tokenizer, tmp_path_factory.mktemp("s") / "s", file_tokens=file_tokens)
    found = predictions(validation_batches(data, context, batch, packing=name))
    assert sorted(target for _, target in found) == sorted(target for ids in WHOLE for target in ids[1:])
    assert set(found) <= STRETCHES
    if name != "stream":
        short = [ids for ids in WHOLE if len(ids) <= context + 1]
        assert {(bytes(ids[:j]), ids[j]) for ids in short for j in range(1, len(ids))} <= set(found)


@contextmanager
def in_small_blocks(tokenizer, folder, mixed):
    """Shards of the texts, or of two sources; blocks and epochs end inside of batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BLOCK_TOKENS", 200)
        patch.setattr(packing, "BLOCK_ROWS", 5)
        data = [shards.write(TEXTS, tokenizer, folder / "a")]
        if mixed:
            data.append(shards.write(TEXTS[:7], tokenizer, folder / "b"))
        yield data


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(PACKINGS)), st.integers(0, 40), st.integers(1, 5), st.booleans())
def test_resumed_is_uninterrupted(tokenizer, tmp_path_factory, name, before, batch, mixed):
    """Bit for bit, from any point, through JSON, with small blocks so that epochs and blocks end inside of batches."""
    with in_small_blocks(tokenizer, tmp_path_factory.mktemp("s"), mixed) as data:
        loader = loader_of(data, batch=batch, packing=name)
        for _ in range(before):
            next(loader)
        saved = json.loads(json.dumps(loader.state_dict()))
        resumed = loader_of(data, batch=batch, packing=name)
        next(resumed)  # wherever it stood
        resumed.load_state_dict(saved)
        for _ in range(12):
            assert same(next(loader), next(resumed))
        assert loader.state_dict() == resumed.state_dict()
        assert loader.epoch == resumed.epoch


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(sorted(PACKINGS)),
    st.integers(4, 9),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=4),
    st.booleans(),
)
def test_ranks_share_the_rows_of_one_process(tokenizer, tmp_path_factory, name, batch, sessions, mixed):
    """A run of several sessions, each on so many ranks for so many steps and resumed from any one rank of the last.

    Oracle: a single process that is never interrupted. The ranks' rows, one rank after the other, are its batch, bit
    for bit, also where rows do not divide evenly and where blocks and epochs end inside of a batch; no rank is without.
    """
    with in_small_blocks(tokenizer, tmp_path_factory.mktemp("s"), mixed) as data:
        weights = (3.0, 2.0) if mixed else ()
        alone = loader_of(data, batch=batch, packing=name, weights=weights)
        saved = alone.state_dict()
        for world, steps in sessions:
            ranks = [
                loader_of(data, batch=batch, packing=name, weights=weights, rank=rank, world_size=world)
                for rank in range(world)
            ]
            for loader in ranks:
                loader.load_state_dict(json.loads(json.dumps(saved)))
            for _ in range(steps):
                whole, parts = next(alone), [next(loader) for loader in ranks]
                assert [len(part.tokens) for part in parts] == [
                    batch // world + (rank < batch % world) for rank in range(world)
                ]
                for tensor in ("tokens", "targets", "mask"):
                    together = torch.cat([getattr(part, tensor) for part in parts])
                    assert torch.equal(together, getattr(whole, tensor))
            assert all(loader.state_dict() == alone.state_dict() for loader in ranks)
            assert {loader.rows for loader in ranks} == {batch}
            saved = ranks[-1].state_dict()


def test_mixtures_keep_their_shares(shards_of):
    """After any number of rows each source is within one row of its share."""
    data = [shards_of(["a" * 90], "a"), shards_of(["b" * 400], "b"), shards_of(["c" * 50], "c")]
    loader = loader_of(data, batch=1, context=8, weights=(5, 3, 2))
    counts = {97: 0, 98: 0, 99: 0}
    for rows in range(1, 200):
        counts[int(next(loader).tokens[0, 0])] += 1
        for count, share in zip(counts.values(), (0.5, 0.3, 0.2), strict=True):
            assert abs(count - share * rows) <= 1
    without = loader_of(data, batch=5, context=8, weights=(1, 0, 1))
    assert 98 not in {int(token) for _ in range(50) for token in next(without).tokens[:, 0]}
    by_size = loader_of(data[:2], batch=1, context=8)
    taken = sum(int(next(by_size).tokens[0, 0]) == 97 for _ in range(492))
    assert taken == 91  # of 492 rows, as its tokens are 91 of 492


def test_the_order_is_the_same_on_every_machine(shards_of):
    """Golden: a digest of ten batches of each packing. A change of it would break every saved position."""
    data = shards_of(TEXTS)
    digest = hashlib.sha256()
    for name in sorted(PACKINGS.keys() - {"grouped"}):
        loader = loader_of(data, packing=name)
        for _ in range(10):
            batch = next(loader)
            digest.update(batch.tokens.numpy().astype("<i8").tobytes() + batch.mask.numpy().tobytes())
    assert digest.hexdigest()[:16] == "003153738c231821"


def test_grouped_batches_are_hardly_wider_than_their_rows(shards_of):
    """Each document in a row of its own, once an epoch; oracle: the documents' lengths. Padding is what is left."""
    texts = ["x" * (1 + 37 * number % 60) for number in range(400)]
    data = shards_of(texts)
    loader = loader_of(data, packing="grouped", context=64, batch=4)
    padded = loader_of(data, packing="padded", context=64, batch=4)
    batches = [next(loader) for _ in range(100)]
    lengths = [(batch.documents >= 0).sum(dim=1) if batch.documents is not None else None for batch in batches]
    found = [
        length
        for batch, rows in zip(batches, lengths, strict=True)
        for length in ([batch.tokens.shape[1]] * 4 if rows is None else rows.tolist())
    ]
    assert sorted(found) == sorted(len(text) for text in texts)  # the end of a document is predicted, and no input
    assert all(batch.tokens.shape[1] == min(-(-int(rows.max()) // 8) * 8, 64)
               for batch, rows in zip(batches, lengths, strict=True) if rows is not None)  # fmt: skip
    for _ in range(100):
        next(padded)
    assert loader.efficiency > 0.85 > 1.5 * padded.efficiency
    widths = [batch.tokens.shape[1] for batch in batches[:50]]
    assert widths != sorted(widths)
    assert widths != sorted(widths, reverse=True)


def test_grouped_batches_go_on_from_anywhere_and_are_divided_among_ranks(shards_of):
    """Oracle: the uninterrupted run of one process, over the end of a window and of an epoch."""
    data = shards_of(["y" * (number % 23) for number in range(150)])
    options = {"packing": "grouped", "context": 32, "batch": 4}
    whole, parts = loader_of(data, **options), [loader_of(data, **options, rank=r, world_size=2) for r in range(2)]
    for step in range(130):
        saved = json.loads(json.dumps(whole.state_dict()))
        batch, halves = next(whole), [next(part) for part in parts]
        assert torch.equal(batch.tokens, torch.cat([half.tokens for half in halves]))
        if step % 13 == 0 or step in (49, 50, 51):
            other = loader_of(data, **options)
            other.load_state_dict(saved)
            again = next(other)
            assert torch.equal(again.tokens, batch.tokens)
            assert again.origin == batch.origin
            assert other.epoch == whole.epoch
    assert 130 * 4 / 150 - 0.4 < whole.epoch < 130 * 4 / 150 + 0.4
    with pytest.raises(DataError, match="batch was 4, now it is 5"):
        loader_of(data, **{**options, "batch": 5}).load_state_dict(saved)


def test_the_order_does_not_depend_on_how_the_shards_are_cut_into_files(shards_of):
    one, many = loader_of(shards_of(TEXTS, "one")), loader_of(shards_of(TEXTS, "many", file_tokens=13))
    assert all(torch.equal(next(one).tokens, next(many).tokens) for _ in range(20))


def test_a_saved_position_of_other_data_or_settings_is_refused(shards_of):
    data = shards_of(TEXTS, "a")
    state = loader_of(data).state_dict()
    with pytest.raises(DataError, match="does not fit: context was 16, now it is 8"):
        loader_of(data, context=8).load_state_dict(state)
    with pytest.raises(DataError, match="packing was best_fit, now it is stream"):
        loader_of(data, packing="stream").load_state_dict(state)
    with pytest.raises(DataError, match="does not fit: the data has changed"):
        loader_of(shards_of(TEXTS[1:], "b")).load_state_dict(state)
    for broken in (
        {},
        {"made_for": 3, "sources": []},
        {**state, "sources": [{"taken": "x"}]},
        {**state, "sources": []},
    ):
        with pytest.raises(DataError, match="no saved position"):
            loader_of(data).load_state_dict(broken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"context": 0}, "context is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2; with a world_size of 2 it is 0 to 1"),
        ({"packing": "streams"}, "did you mean 'stream'"),
        ({"batch": 2, "world_size": 3}, "a batch of 2 has not a row for each of 3 ranks"),
        ({"weights": (1.0, 2.0)}, "each of the 1 sources"),
        ({"weights": (0.0,)}, "at least one above 0"),
        ({"weights": (-1.0,)}, "numbers from 0 on"),
        ({"weights": (float("nan"),)}, "numbers from 0 on"),
        ({"weights": (float("inf"),)}, "numbers from 0 on"),
    ],
)
def test_settings_that_cannot_be_are_refused(shards_of, options, message):
    with pytest.raises(ConfigError, match=message):
        loader_of(shards_of(TEXTS), **options)


def test_the_loader_says_where_a_batch_is_from_and_how_full_it_was(shards_of):
    data = shards_of(["a" * 16, "b" * 8, "c" * 4])
    loader = loader_of(data, batch=2, context=16)
    first, second = next(loader), next(loader)
    assert first.origin.startswith("rows 0 to 1, the first from ")
    assert second.origin.startswith("rows 2 to 3, the first from ")
    assert "shards, document " in second.origin
    assert loader.efficiency == pytest.approx(28 / 32)


def test_windows_are_spread_from_the_first_token_to_the_last(shards_of):
    data = shards_of(["".join(chr(33 + i % 90) for i in range(1000))])
    found = list(windows(data, 7, context=10, batch=3))
    assert [len(batch.tokens) for batch in found] == [3, 3, 1]
    tokens = torch.cat([batch.tokens for batch in found])
    assert tokens[0].tolist() == data.read(0, 10).tolist()
    assert torch.cat([batch.targets for batch in found])[-1].tolist() == data.read(991, 1001).tolist()
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(found, windows(data, 7, 10, 3), strict=True))
    assert len(list(validation_batches(data, 10, 3, limit=2))) == 2
    with pytest.raises(DataError, match="a window of 1001 tokens needs 1002; there are 1001"):
        windows(data, 1, context=1001, batch=1)


def test_assembling_takes_what_counts_from_the_source(shards_of):
    class Half(packing.Tokens):
        tokens, documents, fingerprint = 6, 1, ""
        ends = np.array([6])
        counts = np.array([False, True, False, True, True, False])

        def read(self, start, stop):
            return np.arange(start, stop)

        def place(self, token):
            return ""

    batch = assemble([(Half(), [(0, 2), (3, 5)])], 5)
    assert batch.targets.tolist() == [[1, 2, 4, 5, 0]]
    assert batch.mask.tolist() == [[True, False, True, False, False]]
