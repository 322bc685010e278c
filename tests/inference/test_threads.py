"""The choice between all threads and one, on a clock of its own."""

import pytest
import torch

from penjing.inference.threads import AGAIN, Threads


class Machine:
    """A machine on which a step takes so long with two threads and so long with one."""

    def __init__(self):
        self.now = 0.0
        self.seconds = {2: 1.0, 1: 1.8}
        self.used: list[int] = []
        self.threads = Threads(lambda: self.now)

    def steps(self, count: int) -> list[int]:
        """Runs some; how many threads each had."""
        for _ in range(count):
            with self.threads.chosen():
                self.used.append(torch.get_num_threads())
                self.now += self.seconds[self.used[-1]]
        return self.used[-count:]


@pytest.fixture
def machine():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Machine()
    torch.set_num_threads(before)


def test_on_a_quiet_machine_nearly_all_steps_have_all_threads(machine):
    assert machine.steps(4 * AGAIN).count(1) <= 10
    assert torch.get_num_threads() == 2


def test_beside_another_program_one_thread_is_used(machine):
    machine.seconds = {2: 100.0, 1: 4.0}
    machine.steps(10)
    assert machine.steps(2 * AGAIN).count(2) <= 8


def test_when_another_program_comes_and_goes_the_choice_follows(machine):
    machine.steps(50)
    machine.seconds = {2: 100.0, 1: 4.0}
    assert machine.steps(30).count(2) <= 6
    machine.seconds = {2: 1.0, 1: 1.8}
    machine.steps(AGAIN)
    assert machine.steps(100).count(1) <= 5


def test_a_single_delay_changes_nothing_for_long(machine):
    machine.steps(50)
    machine.seconds[2] = 50.0
    machine.steps(1)
    machine.seconds[2] = 1.0
    machine.steps(6)
    assert set(machine.steps(50)) == {2}


def test_the_number_of_threads_comes_back_after_an_error(machine):
    machine.seconds = {2: 100.0, 1: 4.0}
    machine.steps(20)
    with pytest.raises(ValueError, match="in a step"), machine.threads.chosen():
        raise ValueError("in a step")
    assert torch.get_num_threads() == 2


def test_with_one_thread_there_is_nothing_to_choose(machine):
    torch.set_num_threads(1)
    machine.seconds = {1: 4.0}
    assert set(machine.steps(30)) == {1}
