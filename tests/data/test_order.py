"""Orders as functions of a position: permutations of any size, spread evenly, the same on every machine."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penjing.data.order import Permutation, key_of, mix, random_below


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_every_number_comes_exactly_once(size, key):
    assert np.array_equal(np.sort(Permutation(size, key)(np.arange(size))), np.arange(size))


@given(st.integers(1, 2**40), st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_a_place_does_not_depend_on_which_others_are_asked_for(size, key, places):
    places = np.array(places) % size
    shuffle = Permutation(size, key)
    values = shuffle(places)
    assert [int(shuffle(np.array([place]))[0]) for place in places] == values.tolist()
    assert ((values >= 0) & (values < size)).all()


def test_shuffles_are_even():
    """Over 1,200 keys each of the 24 orders of four comes 50 times; chi-squared, 23 degrees: below 49.7 (p = 0.001)."""
    orders = np.array([Permutation(4, key_of("even", i))(np.arange(4)) for i in range(1200)])
    counts = np.unique(orders @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - 50) ** 2 / 50).sum() < 49.7


def test_neighbours_are_torn_apart():
    """In a shuffle of 100,000 neighbours lie a third of the range apart, and two places in a thousand are near."""
    values = Permutation(100_000, key_of(1, "stream", 0))(np.arange(100_000))
    steps = np.abs(np.diff(values))
    assert abs(steps.mean() / 100_000 - 1 / 3) < 0.01
    assert (steps < 100).mean() < 0.004


def test_mix_is_splitmix64():
    """SplitMix64 from seed 1234567; oracle: the first outputs of its authors' C code."""
    state = (1234567 + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    assert mix(state).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert random_below(1000, np.arange(3), 1234567).tolist() == [317, 973, 423]


def test_random_numbers_are_even():
    counts = np.bincount(random_below(10, np.arange(100_000), key_of("any")), minlength=10)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 28  # chi-squared, 9 degrees, p = 0.001


def test_orders_are_the_same_on_every_machine():
    """Golden values; a change of them would break every saved position in the data."""
    assert key_of(1, "stream", 0) == 9787123747578694781
    assert Permutation(10, 1)(np.arange(10)).tolist() == [7, 5, 9, 8, 0, 2, 6, 3, 1, 4]
    assert Permutation(10**12, 1)(np.arange(3)).tolist() == [125409145182, 668311669981, 697043965609]
