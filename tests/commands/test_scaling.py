"""`penjing scaling` as a user types it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penjing.cli import app
from penjing.errors import ConfigError, DataError

run = CliRunner().invoke


def points(folder: Path) -> Path:
    """Twelve runs of L = 1.5 + 300 / N^0.35 + 500 / D^0.35."""
    lines = ["parameters,tokens,loss"]
    for n in (1e6, 4e6, 16e6):
        lines += [f"{n},{d},{1.5 + 300 / n**0.35 + 500 / d**0.35}" for d in (1e7, 4e7, 16e7, 64e7)]
    path = folder / "points.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_fit_prints_the_law_for_people_and_for_programs(tmp_path):
    """The exact law of the points, to 2 % of each constant."""
    path = points(tmp_path)
    found = json.loads(run(app, ["scaling", "fit", str(path), "--resamples", "20", "--json"]).stdout)
    law = found["chinchilla"]
    assert [law[name] for name in ("E", "A", "B", "alpha", "beta")] == pytest.approx(
        [1.5, 300, 500, 0.35, 0.35], rel=0.02
    )
    assert found["runs"] == 12
    assert found["exponents"]["parametric"] == pytest.approx(0.5, abs=0.01)
    shown = run(app, ["scaling", "fit", str(path), "--resamples", "20"]).stdout
    assert "12 runs" in shown
    assert "Kaplan's law" in shown


def test_plan_from_a_budget_or_from_hours(tmp_path):
    """The same plan when the hours are those of the budget: 1e15 a second at 50 % are 1.8e18 operations an hour."""
    common = ["scaling", "plan", "--speed", "1e15", "--utilisation", "0.5", "--json"]
    one, two = (json.loads(run(app, [*common, *more]).stdout) for more in (["--flops", "3.6e18"], ["--hours", "2"]))
    assert one == two
    assert one["hours"] == pytest.approx(2)
    own = ["--flops", "1e16", "--points", str(points(tmp_path)), "--resamples", "20"]
    assert json.loads(run(app, [*common, *own]).stdout)["loss"]["value"] == pytest.approx(3.18, abs=0.01)
    shown = run(app, ["scaling", "plan", "--flops", "1e21", "--speed", "989e12", "--price", "2"]).stdout
    assert "operations" in shown
    assert "days on 1 x 989 TFLOP/s" in shown


def test_transfer_prints_the_learning_rates_of_a_wider_model():
    """Four times as wide: by hand, AdamW's rates of matrices / 4 and Muon's / 2; decay in a step as it was."""
    arguments = ["scaling", "transfer", "--width", "192", "--tuned-width", "48", "--learning-rate", "0.01"]
    adamw = json.loads(run(app, [*arguments, "--family", "gpt2", "--optimizer", "adamw", "--json"]).stdout)
    found = {name: row for row in adamw["weights"] for name in row["weights"]}
    assert (adamw["tuned_width"], adamw["width"], adamw["optimizer"]) == (48, 192, "adamw")
    numbers = {name: (row["learning_rate"], row["weight_decay"], row["initial_factor"]) for name, row in found.items()}
    assert numbers["mixer.query"] == numbers["mlp.down"] == pytest.approx((0.0025, 0.4, 0.5))
    assert numbers["embedding"] == numbers["learned_positions.table"] == pytest.approx((0.01, 0.1, 1))
    assert numbers["norm"] == numbers["norm.bias"] == pytest.approx((0.0025, 0, 0.25))
    muon = json.loads(run(app, [*arguments, "--family", "gpt2", "--adamw-learning-rate", "0.004", "--json"]).stdout)
    found = {name: row for row in muon["weights"] for name in row["weights"]}
    assert (found["mlp.up"]["optimizer"], found["embedding"]["optimizer"]) == ("muon", "adamw")
    assert found["mlp.up"]["learning_rate"] == pytest.approx(0.005)
    assert found["embedding"]["learning_rate"] == pytest.approx(0.004)
    shown = run(app, arguments).stdout
    assert "fitted to width 192" in shown
    assert "tuned_width = 48" in shown


def test_transfer_reads_the_tuned_model_from_a_recipe(tmp_path):
    """The recipe's own numbers; a recipe that is itself fitted names the model that it is fitted from."""
    model = "[pretrain.model]\nwidth = 64\nlayers = 1\nheads = 4\n"
    rates = "[pretrain.training]\nsteps = 1\nlearning_rate = 0.02\noptimizer = 'adamw'\n"
    for name, more, factor in (("plain", "", 1 / 2), ("fitted", "tuned_width = 32\n", 1 / 4)):
        path = tmp_path / f"{name}.toml"
        path.write_text(f"[tokenizer]\nvocab = 300\n[shards]\n{model}hidden = 64\n{more}{rates}", encoding="utf-8")
        found = json.loads(run(app, ["scaling", "transfer", "--width", "128", "--recipe", str(path), "--json"]).stdout)
        (row,) = (row for row in found["weights"] if "mlp.gate" in row["weights"])
        assert row["learning_rate"] == pytest.approx(0.02 * factor)


def test_what_cannot_be_is_said(tmp_path):
    wide = ["--width", "64", "--tuned-width", "32"]
    for arguments, error, words in (
        (["fit", "nowhere.csv"], DataError, "cannot read nowhere.csv"),
        (["plan"], ConfigError, "give a budget"),
        (["plan", "--flops", "1e20", "--drop-highest", "3"], ConfigError, "give them with --points"),
        (["transfer", "--width", "64"], ConfigError, "give --tuned-width and --learning-rate"),
        (["transfer", *wide, "--learning-rate", "nan"], ConfigError, "learning rate is nan; it must be a number above"),
        (["transfer", *wide, "--recipe", "tiny-chat"], ConfigError, "leave out the options"),
        (["transfer", "--width", "500", "--recipe", "tiny-chat"], ConfigError, "no multiple of the width of a head"),
        (["transfer", "--width", "64", "--recipe", "scaling-ladder"], ConfigError, "has no pretrain stage"),
        (["plan", "--flops", "1e20", "--hours", "3"], ConfigError, "give a budget"),
        (["run", "--recipe", "shakespeare", "--out", str(tmp_path)], ConfigError, "no ladder stage"),
        (["run", "--recipe", "scaling-laddr", "--out", str(tmp_path)], ConfigError, "did you mean 'scaling-ladder'"),
    ):
        found = run(app, ["scaling", *arguments])
        assert isinstance(found.exception, error), arguments
        assert words in str(found.exception)
