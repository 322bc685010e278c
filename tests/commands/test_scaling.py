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


def test_what_cannot_be_is_said(tmp_path):
    for arguments, error, words in (
        (["fit", "nowhere.csv"], DataError, "cannot read nowhere.csv"),
        (["plan"], ConfigError, "give a budget"),
        (["plan", "--flops", "1e20", "--hours", "3"], ConfigError, "give a budget"),
        (["run", "--recipe", "shakespeare", "--out", str(tmp_path)], ConfigError, "no ladder stage"),
        (["run", "--recipe", "scaling-laddr", "--out", str(tmp_path)], ConfigError, "did you mean 'scaling-ladder'"),
    ):
        found = run(app, ["scaling", *arguments])
        assert isinstance(found.exception, error), arguments
        assert words in str(found.exception)
