"""What GRPO is for: a skill that tuning left half learned gets better by nothing but being told what is right.

This needs a chat model that was trained on the generated world: `PENJING_CHAT` names its folder, for instance
runs/tiny-chat/chat/model after `penjing run tiny-chat`. Each test prints its figures (`pytest -m slow -s`).

The skill is `instructions`: to name things of a kind but for one, to use two words in a sentence, to repeat a word, to
answer with one word. It has many right answers, of which tuning shows one, and a checker that knows them all; that is
what verifiable rewards are for. Held-out questions have names and combinations that training never has.
"""

import os
from pathlib import Path

import pytest
import torch

from penjing.stages.grpo import GRPOStage
from penjing.stages.settings import Training
from tests.stages.test_stages import workshop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chat():
    named = os.environ.get("PENJING_CHAT")
    if not named:
        pytest.skip("needs a chat model of the world: PENJING_CHAT names its folder (runs/tiny-chat/chat/model)")
    torch.set_num_threads(2)
    yield Path(named)
    torch.set_num_threads(1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_half_learned_skill_gets_better_by_20_points(tmp_path, chat, seed):
    """300 held-out questions, answered greedily; the standard error of a share of a half is 3 points."""
    stage = GRPOStage(
        model=str(chat), skills=("instructions",), validation=300, prompts=32, answers=8, max_new_tokens=48,
        training=Training(minutes=8.0, optimizer="adamw", learning_rate=1e-3, schedule="linear", precision="fp32"),
    )  # fmt: skip
    stage.check()
    place = workshop(tmp_path, {"grpo": stage}, "grpo")
    object.__setattr__(place.recipe, "seed", seed)
    result = stage.run(place)
    before, after = result["before"]["accuracy"], result["after"]["accuracy"]
    print(f"seed {seed}: {before:.1%} before, {after:.1%} after {result['steps']} steps")
    assert 0.3 <= before <= 0.6
    assert after >= before + 0.2
