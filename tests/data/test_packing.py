"""Packing: TRL's tables, and for any documents: every prediction once an epoch, rows within bounds, a tight fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.data import packing
from penjing.data.packing import PACKINGS, best_fit, efficiency, rows_of, split
from penjing.errors import ConfigError, DataError


class Documents:
    """Documents in memory as `packing` reads them; the tokens are their own numbers, 0, 1, 2, ..."""

    counts = None
    fingerprint = "test"

    def __init__(self, lengths):
        self.ends = np.cumsum(lengths)
        self.documents, self.tokens = len(lengths), int(self.ends[-1])

    def read(self, start, stop):
        return np.arange(start, stop)

    def place(self, token):
        return f"token {token}"


def packed(documents: list[list[int]], capacity: int, cut: bool = False) -> list[list[list[int]]]:
    """What `best_fit` makes of documents that are first split or, with `cut`, cut to the capacity."""
    if cut:
        parts = [document[:capacity] for document in documents]
    else:
        stops = np.cumsum([len(d) for d in documents])
        flat = [token for document in documents for token in document]
        spans = split(stops - [len(d) for d in documents], stops, capacity)
        parts = [flat[start:stop] for start, stop in zip(*spans, strict=True)]
    return [[parts[number] for number in row] for row in best_fit([len(part) for part in parts], capacity)]


A, B, C, D = [1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11], [12]


@pytest.mark.parametrize(
    ("documents", "capacity", "cut", "expected"),
    [
        ([[1, 2, 3], [4, 5, 6, 7], [8]], 4, True, [[[4, 5, 6, 7]], [[1, 2, 3], [8]]]),
        ([A, B, C, D], 4, True, [[[1, 2, 3, 4]], [[8, 9, 10, 11]], [[6, 7], [12]]]),
        ([A, B, C, D], 4, False, [[[1, 2, 3, 4]], [[8, 9, 10, 11]], [[6, 7], [5], [12]]]),
        ([A, [6], [7, 8, 9, 10], [11, 12, 13]], 5, False, [[A], [[7, 8, 9, 10], [6]], [[11, 12, 13]]]),
        ([[1, 2], [], [3, 4, 5], [], [6]], 4, False, [[[3, 4, 5], [6]], [[1, 2]]]),
    ],
)
def test_best_fit_equals_trl(documents, capacity, cut, expected):
    """The tables of TRL's tests for `pack_dataset` with the strategies bfd (which cuts) and bfd_split; exact."""
    assert packed(documents, capacity, cut) == expected


def test_the_example_of_the_module():
    assert best_fit([5, 3, 3, 2, 1], 6) == [[0, 4], [1, 2], [3]]


@given(st.lists(st.integers(0, 20), max_size=60))
def test_best_fit_is_a_partition_in_which_no_two_rows_could_be_one(lengths):
    """Each document once; no row too full; each is in the tightest row that was open at its turn (simulated)."""
    rows = best_fit(lengths, 20)
    assert sorted(number for row in rows for number in row) == [n for n, length in enumerate(lengths) if length]
    spaces: list[int] = []
    where = {number: i for i, row in enumerate(rows) for number in row}
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if not lengths[number]:
            continue
        fitting = [space for space in spaces if space >= lengths[number]]
        row = where[number]
        if row == len(spaces):
            assert not fitting
            spaces.append(20)
        else:
            assert spaces[row] == min(fitting)
        spaces[row] -= lengths[number]
    assert min(spaces, default=0) >= 0
    for one in range(len(spaces)):  # first row of a pair has less space than the second holds
        for two in range(one + 1, len(spaces)):
            assert spaces[one] < 20 - spaces[two]


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(ConfigError, match="a document of 5 tokens does not fit into a row of 4"):
        best_fit([5], 4)


def targets_of(row: packing.Row) -> list[int]:
    return [token for start, stop in row for token in range(start + 1, stop + 1)]


documents_of_any_kind = st.lists(st.one_of(st.integers(1, 4), st.integers(1, 90)), min_size=1, max_size=40).filter(
    lambda lengths: sum(lengths) > len(lengths)
)


@settings(deadline=None)
@given(documents_of_any_kind, st.integers(1, 16), st.sampled_from(["best_fit", "padded", "stream"]), st.integers(0, 9))
def test_each_epoch_gives_each_prediction_once(lengths, context, name, seed):
    """Whatever the blocks: an epoch's targets are all tokens but the first of each document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BLOCK_TOKENS", 50)  # so that there are many blocks, and documents longer than one
        patch.setattr(packing, "BLOCK_ROWS", 3)
        data = Documents(lengths)
        rows = rows_of(name, data, context, seed)
        firsts = {0, *data.ends.tolist()}
        expected = [token for token in range(data.tokens) if token not in firsts]
        for _ in range(2):
            targets: list[int] = []
            while len(targets) < len(expected):
                (row,) = rows.take(1)
                assert 1 <= sum(stop - start for start, stop in row) <= context
                targets += targets_of(row)
            assert sorted(targets) == expected
        in_order = [token for row in rows_of(name, data, context, None).one_epoch() for token in targets_of(row)]
        assert sorted(in_order) == expected
        if name == "stream":
            assert in_order == expected


@settings(deadline=None)
@given(
    documents_of_any_kind, st.integers(1, 16), st.sampled_from(sorted(PACKINGS)), st.integers(0, 60), st.integers(1, 9)
)
def test_an_order_can_be_entered_anywhere(lengths, context, name, before, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BLOCK_TOKENS", 50)
        patch.setattr(packing, "BLOCK_ROWS", 3)
        data = Documents([*lengths, context + 1])
        whole = rows_of(name, data, context, 7)
        whole.take(before)
        later = rows_of(name, data, context, 7)
        later.load(whole.state())
        assert later.epoch == whole.epoch
        assert later.take(count) == whole.take(count)
        assert later.epoch == whole.epoch


def test_random_windows_lie_anywhere_but_outside():
    """All 91 places of a window of 10 inputs in 101 tokens come up in 3,000 rows; none sticks out."""
    rows = rows_of("random", Documents([101]), 10, 0).take(3000)
    assert all(stop == start + 10 for ((start, stop),) in rows)
    assert {start for ((start, _),) in rows} == set(range(91))


def test_epochs_differ_and_seeds_differ():
    data = Documents([7] * 50)
    rows = rows_of("best_fit", data, 6, 1)
    first, second = rows.take(50), rows.take(50)
    assert first != second
    assert sorted(first) == sorted(second)
    assert rows_of("best_fit", data, 6, 2).take(50) != first


def test_best_fit_wastes_little():
    """Documents of 2 to 300 tokens in rows of 256: over 99 % of the places hold a token (padded: under 60 %)."""
    data = Documents(np.random.default_rng(0).integers(3, 300, 5000))
    assert efficiency(list(rows_of("best_fit", data, 256, 0).one_epoch()), 256) > 0.99
    assert efficiency(list(rows_of("padded", data, 256, 0).one_epoch()), 256) < 0.6


def test_what_cannot_be_packed_is_said():
    with pytest.raises(ConfigError, match="no packing 'bestfit'; did you mean 'best_fit'"):
        rows_of("bestfit", Documents([5]), 4, 0)
    with pytest.raises(DataError, match="all documents are empty"):
        rows_of("best_fit", Documents([1, 1]), 4, 0)
    with pytest.raises(DataError, match="random windows of 4 tokens need more than that; there are 4"):
        rows_of("random", Documents([4]), 4, 0)
    with pytest.raises(ConfigError, match="needs a seed"):
        rows_of("random", Documents([9]), 4, None)
