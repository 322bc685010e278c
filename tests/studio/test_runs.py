"""Training runs for the page: what a trainer writes is what is read, once each, and nothing else on the disk is."""

import json
import os
from pathlib import Path

import pytest

from penjing.studio import runs
from penjing.training.metrics import add_sample, truncate_metrics
from tests.training import tiny


def write(path: Path, *lines: dict, cut: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines) + cut)


def step(number: int) -> dict:
    return {"step": number, "loss": 8.0 - number / 100, "tokens": 64 * number, "seconds": number / 10}


def test_a_run_of_the_trainer_is_listed_with_its_curves_and_samples(tmp_path):
    """The real trainer, some steps: oracle, its own metrics.jsonl."""
    tiny.run(tmp_path / "first" / "pretrain", validate=lambda _: {"loss": 2.5}, sample=lambda _: "盆景 grows")
    (run,) = runs.runs(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "first/pretrain/metrics.jsonl").read_text().splitlines()]
    assert (run.name, run.active) == ("first/pretrain", True)
    assert run.step == lines[-1]["step"]
    assert run.loss == [line["loss"] for line in lines if "loss" in line][-1]
    assert runs.curves(tmp_path, run.name).lines == lines
    found = runs.samples(tmp_path, run.name)
    assert {one["text"] for one in found} == {"盆景 grows"}
    assert [one["step"] for one in found] == sorted({one["step"] for one in found}, reverse=True)
    assert "first/pretrain/loss.png" in runs.files(tmp_path, run.name)


def test_each_line_is_given_once_and_a_line_that_is_being_written_waits(tmp_path):
    path = tmp_path / "a" / "metrics.jsonl"
    write(path, step(1), step(2), cut='{"step": 3, "lo')
    first = runs.curves(tmp_path, "a")
    assert ([line["step"] for line in first.lines], first.again) == ([1, 2], True)
    again = runs.curves(tmp_path, "a", first.mark)
    assert (again.lines, again.again, again.mark) == ([], False, first.mark)
    write(path, cut='ss": 1.5}\n')
    write(path, step(4))
    then = runs.curves(tmp_path, "a", first.mark)
    assert ([line["step"] for line in then.lines], then.again) == ([3, 4], False)


def test_a_resumed_run_starts_over(tmp_path):
    """It writes its file anew without the lost steps: the page must not show those, nor any step twice."""
    path = tmp_path / "a" / "metrics.jsonl"
    write(path, *map(step, range(1, 11)))
    mark = runs.curves(tmp_path, "a").mark
    truncate_metrics(path, 6)
    write(path, step(7))
    found = runs.curves(tmp_path, "a", mark)
    assert found.again
    assert [line["step"] for line in found.lines] == list(range(1, 8))


def test_samples_of_lost_steps_are_not_shown(tmp_path):
    write(tmp_path / "a" / "metrics.jsonl", step(1))
    for number, text in [(5, "a"), (10, "b"), (15, "lost"), (10, "c"), (12, "d")]:
        add_sample(tmp_path / "a", number, text)
    assert [(one["step"], one["text"]) for one in runs.samples(tmp_path, "a")] == [(12, "d"), (10, "c"), (5, "a")]


def test_very_many_steps_are_thinned_and_validations_stay(tmp_path):
    count = 5 * runs.MOST_POINTS
    lines = [step(number) for number in range(1, count + 1)]
    lines.insert(777, {"step": 777, "seconds": 1.0, "validation": {"loss": 3.0}})
    write(tmp_path / "a" / "metrics.jsonl", *lines)
    found = runs.curves(tmp_path, "a").lines
    assert len(found) <= runs.MOST_POINTS + 2
    assert found[0]["step"] == 1
    assert found[-1]["step"] == count
    assert [line for line in found if "validation" in line]


def test_what_is_no_metric_is_passed_over(tmp_path):
    write(tmp_path / "a" / "metrics.jsonl", step(1), cut='[]\nnot json\n{"loss": 1}\n{"step": 2, "loss": NaN}\n\xff\n')
    found = runs.curves(tmp_path, "a").lines
    assert [line["step"] for line in found] == [1, 2]
    assert found[1]["loss"] is None
    json.loads(json.dumps(found, allow_nan=False))


@pytest.mark.parametrize(
    "name",
    ["..", "../outside", "a/../../outside", "/etc", "link", "a/link", "a\x00b", "", "nosuch", "~", "a/metrics.jsonl"],
)
def test_nothing_outside_the_folder_is_read(tmp_path, name):
    inside = tmp_path / "runs"
    write(tmp_path / "outside" / "metrics.jsonl", step(1))
    (tmp_path / "outside" / "report.md").write_text("secret")
    write(inside / "a" / "metrics.jsonl", step(1))
    for link in (inside / "link", inside / "a" / "link"):
        os.symlink(tmp_path / "outside", link)
    with pytest.raises(runs.RunsError, match="there is no run"):
        runs.curves(inside, name)
    with pytest.raises(runs.RunsError):
        runs.file(inside, f"{name}/report.md")
    assert [run.name for run in runs.runs(inside)] == ["a"]


def test_only_plots_and_reports_are_handed_out(tmp_path):
    write(tmp_path / "a" / "b" / "metrics.jsonl", step(1))
    for name in ("a/b/loss.png", "a/report.md", "a/b/stage.json", "a/b/model.safetensors", "a/b/notes.md"):
        (tmp_path / name).write_text("x")
    assert runs.files(tmp_path, "a/b") == ["a/b/loss.png", "a/report.md"]
    assert runs.file(tmp_path, "a/report.md").read_text() == "x"
    for name in ("a/b/stage.json", "a/b/model.safetensors", "a/b/metrics.jsonl", "a/b"):
        with pytest.raises(runs.RunsError, match="no plot or report"):
            runs.file(tmp_path, name)


def test_a_folder_that_is_not_there_has_no_runs(tmp_path):
    assert runs.runs(tmp_path / "nothing") == []
