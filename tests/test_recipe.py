import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from penjing.errors import ConfigError, DataError
from penjing.recipe import Interrupted, Recipe, Stage, Workshop, recipe_folder, run_stages
from penjing.stages import KINDS


class Count(Stage):
    """Counts how often it ran, in its folder's parent."""

    start: int = 0
    stop_once: bool = False

    def run(self, workshop: Workshop) -> dict:
        runs = workshop.root / f"{workshop.folder.name}.runs"
        number = int(runs.read_text()) + 1 if runs.exists() else 1
        runs.write_text(str(number))
        if self.stop_once and number == 1:
            raise Interrupted
        return {"value": self.start + sum(result["value"] for result in workshop.results.values())}


KINDS_HERE = {"count": Count}
TEXT = """
description = "counts"
[one]
kind = "count"
start = 1
[two]
kind = "count"
start = 10
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "counting.toml"
    path.write_text(TEXT)
    return path


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def go(path: Path, *overrides: str, data: str | None = None) -> tuple[dict, str]:
    output = console()
    found = run_stages(Recipe.read(str(path), KINDS_HERE, overrides), path.parent / "out", data, output)
    return found, output.file.getvalue()


def runs(path: Path) -> list[str]:
    return [(path.parent / "out" / f"{name}.runs").read_text() for name in ("one", "two")]


def test_a_finished_stage_is_reused_and_a_changed_one_is_made_anew_with_all_that_follows(recipe):
    found, _ = go(recipe)
    assert found["two"]["value"] == 11
    again, told = go(recipe)
    assert again == found
    assert runs(recipe) == ["1", "1"]
    assert told.count("reused") == 2
    go(recipe, "two.start=20")
    assert runs(recipe) == ["1", "2"]
    changed, told = go(recipe, "one.start=2", "two.start=20")
    assert changed["two"]["value"] == 22
    assert runs(recipe) == ["2", "3"]
    assert "one.before-1" in told
    assert json.loads((recipe.parent / "out" / "one.before-1" / "stage.json").read_text())["result"]["value"] == 1


def test_an_interrupted_stage_goes_on_in_its_folder(recipe):
    with pytest.raises(Interrupted):
        go(recipe, "two.stop_once=true")
    (recipe.parent / "out" / "two" / "half").write_text("done")
    _, told = go(recipe, "two.stop_once=true")
    assert "goes on" in told
    assert runs(recipe) == ["1", "2"]
    assert (recipe.parent / "out" / "two" / "half").exists()


def test_other_data_makes_all_stages_anew(recipe):
    text = recipe.parent / "text.txt"
    text.write_text("one")
    go(recipe, data=str(text))
    text.write_text("another")
    go(recipe, data=str(text))
    assert runs(recipe) == ["2", "2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("three.start=1", "no stage 'three'"),
        ("one.strat=1", "did you mean 'start'"),
        ("one.start=many", "one.*start.*many"),
        ("one.kind=cuont", "did you mean 'count'"),
        ("start", "stage.key=value"),
        ("sede=2", "did you mean 'seed'"),
        ("one.start.deep=2", "is a value, not a table"),
    ],
)
def test_a_wrong_setting_is_an_error_that_says_what_is_near(recipe, change, message):
    with pytest.raises(ConfigError, match=message):
        go(recipe, change)


def test_a_misspelt_key_inside_a_shipped_recipe_is_found_at_any_depth():
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        Recipe.read("tiny-chat", KINDS, ["pretrain.training.learning_rat=0.1"])


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tiny-chat'"):
        Recipe.read("tiny-chta", KINDS)


def test_a_recipe_that_needs_text_says_so():
    with pytest.raises(DataError, match="--data"):
        run_stages(Recipe.read("shakespeare", KINDS), Path("never"), None, console())


def test_data_that_is_not_there_is_an_error(recipe):
    with pytest.raises(DataError, match="no file or folder"):
        go(recipe, data="nowhere.txt")


def test_broken_toml_names_the_file(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("[one\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        Recipe.read(str(path), KINDS_HERE)


@pytest.mark.parametrize("path", sorted(recipe_folder().glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_reads_and_builds_its_configs(path):
    """All of it but the running: models' and trainers' configs are built, with a vocabulary of 512."""
    recipe = Recipe.read(path.stem, KINDS)
    assert recipe.description
    for stage in recipe.stages.values():
        if hasattr(stage, "model") and not isinstance(stage.model, str | None):
            assert stage.model.config(512).vocab == 512
        if hasattr(stage, "training"):
            stage.training.trainer(1)
