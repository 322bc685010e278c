"""The stage that sets assistants side by side."""

import io

import pytest
import torch
from rich.console import Console

from penjing.data.world import dialogue
from penjing.errors import ConfigError
from penjing.models.folder import save
from penjing.recipe import Recipe, Workshop
from penjing.stages.compare import Compare
from penjing.stages.settings import Model
from penjing.stages.training import Instruct
from penjing.tokenizer import Tokenizer

INSTRUCT = {"training": {"steps": 1}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run with two chat models, untrained and of different weights."""
    root = tmp_path_factory.mktemp("run")
    tokenizer = Tokenizer.train([dialogue(seed, language="en").answer for seed in range(20)], 300)
    for number, name in enumerate(("chat", "aligned")):
        model = Model(width=16, layers=1, heads=2, context=512).config(tokenizer.vocab_size).build()
        model.initialise(torch.Generator().manual_seed(number))
        save(root / name / "model", model, tokenizer)
    return root


def workshop_in(root, stage):
    stages = {"chat": Instruct(**INSTRUCT), "aligned": Instruct(**INSTRUCT), "compare": stage}
    (root / "compare").mkdir(exist_ok=True)
    return Workshop(root / "compare", root, Recipe("small", stages), None, Console(file=io.StringIO()), {})


def test_each_is_asked_the_same_and_compared_with_the_first(root):
    stage = Compare(models=["chat", "aligned"], skills=["refusal"], items=2, languages=["en"], samples=1)
    found = stage.run(workshop_in(root, stage))
    assert found["questions"] == 2
    first, second = found["assistants"]["chat"], found["assistants"]["aligned"]
    assert first["accuracy"]["items"] == second["accuracy"]["items"] == 2
    assert "win_rate" not in first
    assert second["win_rate"]["ties"] == 2  # untrained, neither says anything right
    assert second["kl"]["mean"] != 0
    page = (root / "compare" / "samples.md").read_text(encoding="utf-8")
    assert page.count("### ") == 1
    assert "**aligned**" in page
    assert (root / "compare" / "accuracy.png").stat().st_size > 1000


def test_refuses_what_is_no_skill():
    with pytest.raises(ConfigError, match="there is no skill 'refusals'"):
        Compare(models=["chat", "aligned"], skills=["refusals"]).check()
