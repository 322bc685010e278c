"""The ladder stage: runs, a law, a prediction, and a larger run; all of it reused when it is there."""

import io
import json

import pytest
from rich.console import Console

from penjing.errors import ConfigError
from penjing.recipe import Recipe, run_stages
from penjing.stages import KINDS
from penjing.training.scaling_laws import Chinchilla, Points

SMALL = """
[world]
documents = 400
dialogues = 0
validation = 20
[tokenizer]
vocab = 300
[shards]
[ladder]
tokens = [2_000, 4_000, 8_000, 16_000]
sizes = [{ width = 16, layers = 1, heads = 1 }, { width = 32, layers = 1, heads = 1 }]
larger = { width = 48, layers = 2, heads = 2 }
row = 64
validation_tokens = 2_000
[ladder.model]
width = 1
layers = 1
heads = 1
context = 64
[ladder.training]
batch = 4
precision = "fp32"
"""


@pytest.mark.slow
def test_a_ladder_is_climbed_once_and_its_prediction_is_held_against_a_run(tmp_path):
    """Oracles: the points in the file; the law in the result, evaluated by hand; files untouched by a second call."""
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    recipe = Recipe.read(str(tmp_path / "small.toml"), KINDS)
    text = io.StringIO()
    found = run_stages(recipe, tmp_path / "run", None, Console(file=text))["ladder"]
    folder = tmp_path / "run" / "ladder"

    points = Points.read(folder / "points.csv")
    assert len(points) == 8
    assert sorted(set(points.tokens // 2000)) == [1, 2, 4, 8]
    shortest, longest = (points.loss[points.tokens == f(points.tokens)].mean() for f in (min, max))
    assert longest < shortest - 0.2

    law = Chinchilla(**found["law"])
    assert found["predicted"] == pytest.approx(law.loss(found["parameters"], found["tokens"]))
    assert found["parameters"] > 3 * points.parameters.max()
    assert found["interval"][0] <= found["predicted"] <= found["interval"][1]
    outcome = json.loads((folder / "w48-l2-t16000" / "result.json").read_text(encoding="utf-8"))
    assert found["actual"] == outcome["validation_loss"]
    assert outcome["parameters"] == found["parameters"]
    assert found["error"] == pytest.approx(found["predicted"] / found["actual"] - 1)
    assert (folder / "scaling.png").stat().st_size > 10_000
    assert "predicted loss" in text.getvalue()

    made = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    assert len(made) == 9
    (folder / "stage.json").unlink()  # as if it had been interrupted after the last run
    assert run_stages(recipe, tmp_path / "run", None, Console(file=io.StringIO()))["ladder"]["law"] == found["law"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ladder.tokens=[1000, 2000]", "a law of five constants needs 7 runs or more"),
        ("ladder.row=128", "row is 128, and the model's context only 64"),
        ("ladder.larger={ width = 30, layers = 1, heads = 4 }", "heads"),
        ("ladder.sizes=[]", "ladder"),
    ],
)
def test_a_ladder_that_cannot_be_climbed_is_refused_before_the_first_run(tmp_path, change, words):
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        run_stages(
            Recipe.read(str(tmp_path / "small.toml"), KINDS, [change]), tmp_path / "run", None, Console(quiet=True)
        )
    assert not (tmp_path / "run").exists()
