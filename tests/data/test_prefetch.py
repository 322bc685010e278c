"""Batches made ahead are the loader's own, and a run resumes after those that it has seen."""

import threading

import pytest

from penjing.data.prefetch import Prefetch
from penjing.errors import DataError

from .test_loader import TEXTS, loader_of, same


@pytest.fixture
def prefetched(tmp_path):
    made = []

    def make(loader, **options):
        made.append(Prefetch(loader, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_the_batches_are_the_loader_s(shards_of, prefetched, ahead):
    shards = shards_of(TEXTS)
    mine, plain = prefetched(loader_of(shards), ahead=ahead), loader_of(shards)
    for _ in range(12):
        assert same(next(mine), next(plain))
        assert (mine.epoch, mine.rows, mine.state_dict()) == (plain.epoch, plain.rows, plain.state_dict())


def test_goes_on_after_the_last_batch_that_was_handed_out(shards_of, prefetched):
    shards = shards_of(TEXTS)
    mine, plain = prefetched(loader_of(shards), ahead=4), loader_of(shards)
    for _ in range(5):
        next(mine), next(plain)
    other = prefetched(loader_of(shards))
    next(other)
    other.load_state_dict(mine.state_dict())
    assert other.state_dict() == plain.state_dict()
    for _ in range(5):
        assert same(next(other), next(plain))


def test_makes_batches_in_a_thread_of_its_own(shards_of, prefetched):
    loader, threads = loader_of(shards_of(TEXTS)), set()
    make = loader._take
    loader._take = lambda count: threads.add(threading.current_thread()) or make(count)
    next(prefetched(loader))
    assert threading.main_thread() not in threads


def test_what_goes_wrong_ahead_is_raised_where_the_batch_is_asked_for(shards_of, prefetched):
    loader = loader_of(shards_of(TEXTS))
    mine = prefetched(loader, ahead=1)
    next(mine)

    def fail(count):
        raise DataError("a shard is damaged")

    mine._coming[0].result()
    loader._take = fail
    next(mine)
    with pytest.raises(DataError, match="a shard is damaged"):
        next(mine)
