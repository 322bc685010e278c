"""`penjing safety`: what it prints, in words and as JSON, and how it ends."""

import json

import pytest
from typer.testing import CliRunner

from penjing.cli import app
from penjing.errors import CheckpointError, DataError
from tests.serving.safety.test_moderator import write_judged
from tests.serving.safety.test_tagger import write_marked

run = CliRunner().invoke
SMALL = [word for change in ("training.steps=5", "everyday=2", "buckets=4096") for word in ("--set", change)]


def test_check_says_what_follows_and_why():
    result = run(app, ["safety", "check", "Call 13812345678", "--where", "output"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "redact"
    assert "personal: PHONE" in result.stdout
    assert "Call <PHONE>" in result.stdout


def test_check_reads_standard_input_and_speaks_json():
    result = run(app, ["safety", "check", "-", "--json"], input="我不想活了")
    found = json.loads(result.stdout)
    assert result.exit_code == 1  # blocked
    assert (found["action"], found["text"]) == ("block", "")
    assert "12356" in found["help"]
    assert found["reasons"][0]["rule"] == "self_harm"


def test_check_with_a_policy_of_ones_own(tmp_path):
    (tmp_path / "p.toml").write_text('[words]\nwords = ["plum"]\ninput = "block"\n')
    assert run(app, ["safety", "check", "a plum", "--policy", str(tmp_path / "p.toml")]).exit_code == 1
    assert run(app, ["safety", "check", "a pear", "--policy", str(tmp_path / "p.toml")]).exit_code == 0


def test_train_then_eval_then_check(tmp_path):
    """A whole round on made-up texts, in steps too few to learn much: what is printed is what was measured."""
    judged, out = write_judged(tmp_path / "judged"), tmp_path / "out"
    trained = run(app, ["safety", "train", "--data", str(judged), "--out", str(out), "--json", *SMALL])
    assert trained.exit_code == 0, trained.output
    measured = json.loads(trained.stdout.splitlines()[-1])["model"]
    folder = str(out / "moderation" / "model")
    (tmp_path / "plain.txt").write_text("one\ntwo\n")
    command = ["safety", "eval", folder, "--data", str(judged), "--everyday", str(tmp_path / "plain.txt")]
    evaluated = run(app, [*command, "--plots", str(tmp_path / "plots"), "--json"])
    assert evaluated.exit_code == 0, evaluated.output
    found = json.loads(evaluated.stdout)
    assert found["languages"]["en"]["recall_at_10_percent"] == measured["en"]["recall_at_10_percent"]
    assert found["everyday"][str(tmp_path / "plain.txt")]["0.02"]["of"] == 2
    assert (tmp_path / "plots" / "categories.png").stat().st_size > 1000
    table = run(app, command)
    assert "threshold for 10.0%" in table.stdout
    assert "violence" in table.stdout
    assert run(app, ["safety", "check", "hello", "--moderator", folder]).exit_code in (0, 1)


def test_train_a_tagger_then_eval_it(tmp_path):
    """What is printed is what was measured; in steps too few to learn much."""
    marked, out = write_marked(tmp_path / "marked.json"), tmp_path / "out"
    (tmp_path / "plain.txt").write_text("there was nothing\nwe saw bread\n")
    few = [
        word for change in ("training.steps=3", "folds=2", "ordinary=2", "buckets=4096") for word in ("--set", change)
    ]
    command = ["safety", "train-tagger", "--data", str(marked), "--texts", str(tmp_path / "plain.txt")]
    trained = run(app, [*command, "--out", str(out), "--json", *few])
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout.splitlines()[-1])["by_finder"]["tagger"]["any_kind"]["marked"] == 72
    command = ["safety", "eval", str(out / "personal" / "model"), "--data", str(marked)]
    command += ["--everyday", str(tmp_path / "plain.txt")]
    found = json.loads(run(app, [*command, "--json"]).stdout)
    assert found["everyday"][str(tmp_path / "plain.txt")]["texts"] == 2
    assert found["by_finder"]["rules"]["typed"]["marked"] == 72
    table = run(app, command)
    assert "rules and tagger: 96 texts" in table.stdout
    assert "of 2 texts touched" in table.stdout


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        run(app, ["safety", "train", "--data", str(tmp_path / "none")], catch_exceptions=False)
    with pytest.raises(CheckpointError, match="no file"):
        run(app, ["safety", "check", "x", "--moderator", str(tmp_path)], catch_exceptions=False)
