import os
import threading
import time

import pytest

from penjing.errors import PenjingError
from penjing.workers import in_order


def double(number: int) -> int:
    return 2 * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_tasks(workers):
    def slower_first(number: int) -> int:
        time.sleep(0.002 if number % 3 == 0 else 0)
        return 2 * number

    assert list(in_order(slower_first, range(20), workers)) == [2 * number for number in range(20)]


def test_processes_give_the_same():
    assert list(in_order(double, range(7), 2, processes=True)) == [2 * number for number in range(7)]


def test_tasks_are_taken_as_they_are_needed():
    taken = []

    def tasks():
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(double, tasks(), 2)
    for _ in range(5):
        next(results)
    assert len(taken) <= 5 + 2 * 2


def test_a_fault_reaches_the_reader_and_ends_the_threads():
    before = threading.active_count()
    with pytest.raises(ValueError, match="three"):
        list(in_order(fail_at_three, range(50), 2))
    assert threading.active_count() == before


def test_a_reader_may_stop_early():
    before = threading.active_count()
    results = in_order(double, range(1000), 2)
    next(results)
    results.close()
    assert threading.active_count() == before


def die(number: int) -> int:
    os._exit(1)


def test_a_process_that_dies_is_a_clear_error():
    with pytest.raises(PenjingError, match="a worker process died"):
        list(in_order(die, range(4), 2, processes=True))
