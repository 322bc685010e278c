"""What the slow tests of learning share."""

import os
from pathlib import Path

import pytest
import torch

from penjing.stages.settings import Training
from penjing.stages.training import Instruct
from tests.stages.test_stages import workshop


@pytest.fixture(scope="module")
def chat():
    """A chat model of the world that somebody trained before."""
    named = os.environ.get("PENJING_CHAT")
    if not named:
        pytest.skip("needs a chat model of the world: PENJING_CHAT names its folder (runs/tiny-chat/chat/model)")
    torch.set_num_threads(2)
    yield Path(named)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def half_tuned(tmp_path_factory):
    """A chat model whose instruction tuning was stopped early, when it calls the calculator rightly half of the time.

    It is made of a run of the recipe tiny-chat, whose folder `PENJING_RUN` names: its base model, its dialogues, and
    its settings but for 450 steps instead of some 1,700.
    """
    named = os.environ.get("PENJING_RUN")
    if not named:
        pytest.skip("needs a run of the recipe tiny-chat: PENJING_RUN names its folder (runs/tiny-chat)")
    torch.set_num_threads(2)
    run, place = Path(named), tmp_path_factory.mktemp("half tuned")
    stage = Instruct(
        model=str(run / "pretrain" / "model"),
        data=str(run / "world" / "dialogues.jsonl"),
        row=192,
        training=Training(
            steps=450, batch=16, learning_rate=0.01, adamw_learning_rate=0.006, momentum=0.9, warmup=0.02, decay=0.8
        ),
    )
    at = workshop(place, {"chat": stage}, "chat")
    object.__setattr__(at.recipe, "seed", 1)
    stage.run(at)
    yield at.folder / "model"
    torch.set_num_threads(1)
