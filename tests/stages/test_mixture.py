"""Mixtures in recipes: shares of rows over a run, what the tokenizer learns from, resuming, and what is refused."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from penjing.data import shards
from penjing.data.loader import PackedLoader
from penjing.errors import ConfigError, DataError
from penjing.recipe import Recipe, run_stages
from penjing.stages import KINDS
from tests.stages.test_stages import TOKENIZER

RECIPE = """
[tokenizer]
load = "{tokenizer}"
[web]
kind = "shards"
data = "{folder}/web-*.txt"
validation = 0.2
[books]
kind = "shards"
data = "{folder}/books.jsonl"
field = "content"
validation = 0.2
[pretrain]
row = 16
validation_tokens = 200
mixture = {{ web = 3, books = 1, "{folder}/made" = 4 }}
[pretrain.model]
width = 16
layers = 1
heads = 2
context = 64
[pretrain.training]
optimizer = "adamw"
precision = "fp32"
batch = 5
steps = {steps}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Texts of a, of b and of c: files, a table, and shards that `penjing data shard` would make."""
    for number in range(3):
        (tmp_path / f"web-{number}.txt").write_text("<|endoftext|>".join(f"{i}" + "a" * (20 + i) for i in range(30)))
    lines = [json.dumps({"content": f"{i}" + "b" * (10 + i)}) + "\n" for i in range(50)]
    (tmp_path / "books.jsonl").write_text("".join(lines))
    for side in ("train", "validation"):
        shards.write(["c" * (10 + i) for i in range(60)], TOKENIZER, tmp_path / "made" / side)
    TOKENIZER.save(tmp_path / "tokenizer")
    return tmp_path


def recipe(place: Path, steps: int = 4, *overrides: str) -> Recipe:
    path = place / "mixed.toml"
    path.write_text(RECIPE.format(folder=place, tokenizer=place / "tokenizer", steps=steps))
    return Recipe.read(str(path), KINDS, overrides)


def run(chosen: Recipe, place: Path, out: str = "out") -> dict:
    return run_stages(chosen, place / out, None, Console(file=io.StringIO(), width=200))


def test_a_recipe_mixes_its_shards_by_their_weights(place, monkeypatch):
    """Of 8 parts 3, 1 and 4: after each of 40 steps of 5 rows every source is within one row of its share, exactly.

    The letters of each row say which source it is from. Validation reads all three.
    """
    counts = dict.fromkeys("abc", 0)
    draw = PackedLoader.__next__
    seen = []

    def note(self):
        batch = draw(self)
        for row in batch.tokens.tolist():
            (letter,) = {chr(token) for token in row} & set("abc")
            counts[letter] += 1
        total = sum(counts.values())
        seen.append(total)
        for letter, share in zip("abc", (3 / 8, 1 / 8, 4 / 8), strict=True):
            assert abs(counts[letter] - share * total) <= 1
        return batch

    monkeypatch.setattr(PackedLoader, "__next__", note)
    result = run(recipe(place, 40), place)["pretrain"]
    assert seen[-1] == 200
    assert result["steps"] == 40
    assert result["validation_loss"] > 0


def test_a_mixed_run_goes_on_as_if_it_had_never_stopped(place):
    """Three steps, then to nine: the same validation loss, to the last bit, as nine at once (a constant schedule)."""
    how = ("pretrain.training.schedule=constant", "pretrain.training.warmup=0")
    straight = run(recipe(place, 9, *how), place, "straight")
    run(recipe(place, 3, *how), place, "parts")
    record = place / "parts" / "pretrain" / "stage.json"
    record.write_text(json.dumps({"fingerprint": _fingerprint(place, straight), "finished": False}))
    output = Console(file=io.StringIO(), width=200)
    again = run_stages(recipe(place, 9, *how), place / "parts", None, output)
    assert "going on from step 3" in output.file.getvalue()
    assert again["pretrain"]["steps"] == 9
    assert again["pretrain"]["validation_loss"] == straight["pretrain"]["validation_loss"]


def _fingerprint(place: Path, _: dict) -> str:
    return json.loads((place / "straight" / "pretrain" / "stage.json").read_text())["fingerprint"]


def test_the_tokenizer_learns_from_what_shards_have_of_their_own(place, monkeypatch):
    """Training text of each source in turn, none of what is kept for validation."""
    from penjing.tokenizer import Tokenizer

    learned = []
    monkeypatch.setattr(Tokenizer, "train", lambda texts, *_, **__: learned.extend(texts) or TOKENIZER)
    chosen = recipe(place)
    stages = {name: stage for name, stage in chosen.stages.items() if name != "pretrain"}
    stages["tokenizer"] = KINDS["tokenizer"](vocab=259)
    run(Recipe("mixed", stages), place)
    assert "a" in learned[0]
    assert "b" in learned[1]
    train = {name: shards.Shards.open(place / "out" / name / "train") for name in ("web", "books")}
    assert len(learned) == sum(made.documents for made in train.values())
    held_out = shards.Shards.open(place / "out" / "books" / "validation")
    kept = {TOKENIZER.decode(held_out.document(i)[:-1]) for i in range(held_out.documents)}
    assert kept
    assert not kept & set(learned)


def test_other_shards_or_weights_make_the_stage_anew(place):
    first = run(recipe(place), place)["pretrain"]
    assert run(recipe(place), place)["pretrain"] == first
    shards.write(["c" * 9] * 40, TOKENIZER, place / "made" / "train")
    run(recipe(place), place)
    run(recipe(place, 4, "pretrain.mixture.web=1"), place)
    assert len(list((place / "out").glob("pretrain.before-*"))) == 2


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("{ web = 0, books = 0 }", "at least one above 0"),
        ("{ web = -1, books = 2 }", "pretrain.*mixture.web = -1.*greater than or equal to 0"),
        ("{ wep = 1, books = 2 }", "mixes 'wep', which is neither .* nor a folder; did you mean 'web'"),
    ],
)  # fmt: skip
def test_mixtures_that_cannot_be_are_refused(place, mixture, message):
    with pytest.raises(ConfigError, match=message):
        run(recipe(place, 4, f"pretrain.mixture={mixture}"), place)


def test_shards_that_are_damaged_are_named(place):
    run(recipe(place), place)
    (place / "made" / "train" / "tokens-00000.bin").unlink()
    with pytest.raises(DataError, match=r"made/train/tokens-00000.bin is missing"):
        run(recipe(place, 6), place)


def test_an_empty_source_is_named(place):
    (place / "books.jsonl").write_text("")
    with pytest.raises(DataError, match=r"there is no text in .*books\.jsonl"):
        run(recipe(place), place)
