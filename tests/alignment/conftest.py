"""What the slow tests of learning share."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def chat():
    """A chat model of the world that somebody trained before."""
    named = os.environ.get("PENJING_CHAT")
    if not named:
        pytest.skip("needs a chat model of the world: PENJING_CHAT names its folder (runs/tiny-chat/chat/model)")
    torch.set_num_threads(2)
    yield Path(named)
    torch.set_num_threads(1)
