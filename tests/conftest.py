"""What all tests share: real data when it is there, one seed, few threads."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tests are small: a second thread would wait more than it works


def data_root() -> Path | None:
    """The folder of real data, or None: `PENJING_DATA`, else `../shared/data` beside the project."""
    named = os.environ.get("PENJING_DATA")
    place = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return place if place.is_dir() else None


@pytest.fixture(scope="session")
def data() -> Path:
    place = data_root()
    if place is None:
        pytest.skip("needs the real data (../shared/data, or the folder that PENJING_DATA names)")
    return place


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
