import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from penjing.errors import ConfigError, DataError, TrainingError
from penjing.recipe import Interrupted, Recipe, Stage, Workshop, recipe_folder, run_stages
from penjing.stages import KINDS
from penjing.stages.ladder import Ladder
from penjing.training.lock import only_run_in


class Count(Stage):
    """Counts how often it ran, in its folder's parent."""

    start: int = 0
    stop_once: bool = False
    reads: str | None = None
    needs: str = ""
    model: str | None = None

    def named_models(self) -> list[str]:
        return [self.model] if self.model else []

    def named_files(self) -> list[str]:
        return [self.reads] if self.reads else []

    def depends_on(self, workshop: Workshop) -> int | None:
        return workshop.recipe.stages[self.needs].start if self.needs else None

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


def test_a_model_is_a_stage_before_or_a_folder(recipe):
    """A stage's name leads to what it made; a folder's change makes the stage anew; else it is refused."""
    folder = recipe.parent / "mine"
    folder.mkdir()
    stages = Recipe.read(str(recipe), KINDS_HERE)
    place = Workshop(recipe.parent / "out" / "two", recipe.parent / "out", stages, None, console(), {})
    assert place.model("one", Count) == recipe.parent / "out" / "one" / "model"
    assert place.model(None, Count) == recipe.parent / "out" / "one" / "model"
    assert place.model(str(folder), Count) == folder
    go(recipe, "two.model=one")
    go(recipe, "two.model=one")
    assert runs(recipe) == ["1", "1"]
    go(recipe, f"two.model={folder}")
    (folder / "weights").write_text("others")
    go(recipe, f"two.model={folder}")
    assert runs(recipe) == ["1", "3"]
    for name, message in (("on", "did you mean 'one'"), ("two", "nor a stage before it"), ("none/such", "no file or")):
        with pytest.raises(DataError, match=message):
            go(recipe, f"two.model={name}")
    assert runs(recipe) == ["1", "3"]


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


def test_a_file_that_a_setting_names_counts_as_data(recipe):
    """The stage whose file changed is made anew, and the one before it is not."""
    text = recipe.parent / "conversations.jsonl"
    text.write_text("one")
    go(recipe, f"two.reads='{text}'")
    go(recipe, f"two.reads='{text}'")
    assert runs(recipe) == ["1", "1"]
    text.write_text("another")
    go(recipe, f"two.reads='{text}'")
    assert runs(recipe) == ["1", "2"]


def test_a_named_file_that_is_not_there_is_found_before_anything_runs(recipe):
    with pytest.raises(DataError, match=r"\[two\]: there is no file or folder nowhere\.jsonl"):
        go(recipe, "two.reads=nowhere.jsonl")
    assert not (recipe.parent / "out").exists()


def test_what_a_stage_depends_on_besides_makes_it_anew(recipe):
    """Stage one reads a setting of stage two."""
    go(recipe, "one.needs=two")
    go(recipe, "one.needs=two", "two.start=11")
    assert runs(recipe) == ["2", "2"]


def test_time_before_an_interruption_counts(recipe, monkeypatch):
    """By a clock that shows one second for stage one, five for the interrupted and seven for the second go of two."""
    clock = iter([0, 1, 10, 15, 100, 107, 200, 201])
    monkeypatch.setattr("penjing.recipe.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(Interrupted):
        go(recipe, "two.stop_once=true")
    found, _ = go(recipe, "two.stop_once=true")
    assert found["one"]["seconds"] == 1
    assert found["two"]["seconds"] == 5 + 7
    assert go(recipe, "two.start=3")[0]["two"]["seconds"] == 1


def test_a_stage_begins_without_what_a_killed_process_left(recipe):
    """A half-written file is gone; a folder that was being replaced is back."""
    with pytest.raises(Interrupted):
        go(recipe, "two.stop_once=true")
    folder = recipe.parent / "out" / "two"
    (folder / ".train.jsonl.abcd_123.partial").write_text("half")
    (folder / ".model.abcd1234.old" / "model").mkdir(parents=True)
    go(recipe, "two.stop_once=true")
    assert sorted(path.name for path in folder.iterdir()) == ["model", "stage.json"]


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
        ("seed=-1", "seed = -1 is not a whole number from 0"),
        ("seed=18446744073709551616", "seed"),
        ("seed=true", "seed = True"),
    ],
)
def test_a_wrong_setting_is_an_error_that_says_what_is_near(recipe, change, message):
    with pytest.raises(ConfigError, match=message):
        go(recipe, change)


def test_any_recipe_may_be_divided_among_processes(recipe):
    """[parallel] need not be in it; a misspelt key is still found."""
    read = Recipe.read(str(recipe), KINDS_HERE, ["parallel.shard=2"])
    assert (read.parallel.shard, len(read.stages)) == (2, 2)
    with pytest.raises(ConfigError, match="did you mean 'shard'"):
        Recipe.read(str(recipe), KINDS_HERE, ["parallel.shrad=2"])


def test_a_misspelt_key_inside_a_shipped_recipe_is_found_at_any_depth():
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        Recipe.read("tiny-chat", KINDS, ["pretrain.training.learning_rat=0.1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pretrain.model.dropout=1.5", "model.dropout = 1.5: input should be less than 1"),
        ("pretrain.model.hidden=-1", "model.hidden = -1"),
        ("pretrain.model.hidden=0", "model.hidden = 0"),
        ("pretrain.model.init_std=-1", "model.init_std = -1"),
        ("pretrain.row=0", "row = 0"),
        ("pretrain.training.betas=[0.9, 1.0]", "training.betas.1 = 1.0"),
        ("pretrain.training.learning_rate=nan", "training.learning_rate = nan"),
        ("pretrain.training.minutes=0", "training.minutes = 0"),
        ("world.languages=[]", "languages"),
        ("shards.validation=1", "validation = 1"),
        ("chat.validation=0", "validation = 0"),
        ("evaluate.items=0", "items = 0"),
        ("curve.progres=[0.1]", "did you mean 'progress'"),
        ("pretrain.model={widht = 8, layers = 1, heads = 1}", "unknown key 'model.widht'; did you mean 'width'"),
        ("curve.progress=[0.5]", r"\[curve\]: 1 values of progress, but 10 of bits_per_byte"),
        ("curve.bits_per_byte=3", "bits_per_byte = 3"),
    ],
)
def test_a_value_that_cannot_be_is_refused_when_the_recipe_is_read(change, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.read("tiny-chat", KINDS, [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pretrain.model.heads=3", r"\[pretrain\]: width 160 is no multiple of 3 heads"),
        ("pretrain.row=1000", r"\[pretrain\]: row is 1000, and the model's context only 256"),
        ("chat.training.warmup=0.9", r"\[chat\]: warmup 0.9 and decay 0.8"),
        ("tokenizer.pattern=gtp2", r"\[tokenizer\]: .*did you mean 'gpt2'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_before_anything_runs(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        run_stages(Recipe.read("tiny-chat", KINDS, [change]), tmp_path / "out", None, console())
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tiny-chat'"):
        Recipe.read("tiny-chta", KINDS)


def test_a_recipe_that_needs_text_says_so():
    with pytest.raises(DataError, match="--data"):
        run_stages(Recipe.read("shakespeare", KINDS), Path("never"), None, console())


def test_data_that_is_not_there_is_an_error(recipe):
    with pytest.raises(DataError, match="no file or folder"):
        go(recipe, data="nowhere.txt")


def test_a_link_to_nothing_in_the_data_is_named(recipe):
    folder = recipe.parent / "texts"
    folder.mkdir()
    (folder / "link.txt").symlink_to("nowhere.txt")
    with pytest.raises(DataError, match=r"link\.txt cannot be read"):
        go(recipe, data=str(folder))
    assert not (recipe.parent / "out").exists()


def test_a_file_is_no_place_for_a_run(recipe):
    (recipe.parent / "out").write_text("not a folder")
    with pytest.raises(ConfigError, match="out is a file; --out names a folder"):
        go(recipe)


def test_a_place_that_the_system_refuses_is_named(recipe, monkeypatch):
    """As in a folder that is read-only, which root could write to all the same."""

    def refuse(path: Path, *_, **__) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"out cannot be used: .*Permission denied; choose another place with --out"):
        go(recipe)


def test_two_runs_do_not_share_a_folder(recipe):
    (recipe.parent / "out").mkdir()
    with only_run_in(recipe.parent / "out"), pytest.raises(TrainingError, match="another run is writing into"):
        go(recipe)


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
        stage.check()
        if hasattr(stage, "training") and not isinstance(stage, Ladder):  # whose budgets are the rungs'
            stage.training.trainer(1)
