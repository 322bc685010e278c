"""How processes meet: what torchrun tells them, after restarts too."""

import socket
from dataclasses import asdict

import pytest

from tests.training.distributed.work import Case, finish, launch


@pytest.mark.slow
def test_nodes_that_were_started_another_number_of_times_meet(tmp_path):
    """A node that comes back counts its restarts from 0, the others do not; the store is a new one for each attempt."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank, restarts in enumerate(("2", "0")):
        world = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": port, "TORCHELASTIC_RESTART_COUNT": restarts}
        settings = {"mesh": {"data": 2}, "case": asdict(Case()), "steps": 1, "every": 50}
        processes += launch(1, "train", environment=world, out=str(tmp_path), **settings)
    ends = finish(processes, 120)
    assert [code for code, _, _ in ends] == [0, 0], ends
