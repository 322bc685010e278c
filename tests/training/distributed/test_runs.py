"""Runs on several processes: resumed on another number of them, killed, refused."""

import random
import time
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from penjing.cli import app
from penjing.models.folder import load_model
from penjing.training.metrics import read_metrics
from tests.training.distributed.work import Case, finish, launch

CASE = Case(tied=True, vocab=26, optimizer="muon", packed=True)
STEPS = 16


def run(out, count=1, seconds=120, **settings):
    """Trains to the end on so many processes; each one's exit code, output and errors."""
    settings = {"case": asdict(CASE), "steps": STEPS, "every": 50, **settings}
    return finish(launch(count, "train", out=str(out), **settings), seconds)


def told(out):
    """The loss of every step."""
    return {line["step"]: line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"shard": 2, "tensor": 2}, {}),
        ({"shard": 2, "tensor": 2}, {"shard": 2}),
        ({"shard": 2, "tensor": 2}, {"pipeline": 2, "data": 2}),
        ({"pipeline": 2}, {"tensor": 2}),
        ({}, {"context": 2}),
    ],
    ids=str,
)
def test_a_run_goes_on_with_another_layout(tmp_path, before, after):
    """Stopped after six steps on one, the next ten losses on another equal those of a run that never stopped.

    Within 1e-5: float32 sums in another order, over few steps.
    """

    def processes(axes):
        return 2 ** len(axes)

    assert [code for code, _, _ in run(tmp_path / "whole")] == [0]
    out = tmp_path / "moved"
    ends = run(out, processes(before), mesh=before, stop_at=[0, 6])
    assert {code for code, _, _ in ends} == {0}, ends
    assert max(told(out)) == 6
    ends = run(out, processes(after), mesh=after)
    assert {code for code, _, _ in ends} == {0}, ends
    whole, moved = told(tmp_path / "whole"), told(out)
    assert moved.keys() == whole.keys() == set(range(1, STEPS + 1))
    assert max(abs(moved[step] - whole[step]) for step in whole) < 1e-5
    one, other = (load_model(folder / "model").state_dict() for folder in (tmp_path / "whole", out))
    assert all((one[name] - other[name]).abs().max() < 1e-4 for name in one)


@pytest.mark.slow
def test_a_failure_on_one_process_ends_all_with_its_words(tmp_path):
    """Within 30 seconds, the time to start included; nobody waits for the dead."""
    started = time.monotonic()
    ends = run(tmp_path, 2, mesh={"shard": 2}, fail_at=[1, 4])
    assert time.monotonic() - started < 30
    for code, _, errors in ends:
        assert code == 2
        assert "this process's disk fell out" in errors
        assert "Traceback" not in errors


@pytest.mark.slow
def test_a_full_disk_on_one_process_stops_all_at_the_last_good_checkpoint(tmp_path):
    """The second process cannot write its pieces of steps 6 and later; with space again the run ends as one that never
    lacked it, and the whole weights of its last checkpoint are those of the model folder, tensor by tensor.
    """
    ends = run(tmp_path / "run", 2, mesh={"shard": 2}, every=3, full_at=[1, 5])
    for code, _, errors in ends:
        assert code == 2
        assert "the checkpoint of step 6 could not be written (process 1: " in errors, errors
        assert "step-000003; free some space" in errors
        assert "Traceback" not in errors
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"]
    ends = run(tmp_path / "run", 2, mesh={"shard": 2}, every=3)
    assert {code for code, _, _ in ends} == {0}, ends
    run(tmp_path / "whole", 2, mesh={"shard": 2})
    exported = {}
    for name in ("run", "whole"):
        said = CliRunner().invoke(app, ["export", str(tmp_path / name), str(tmp_path / f"{name}-out")])
        assert said.exit_code == 0, said.output
        exported[name] = load_file(tmp_path / f"{name}-out" / "model.safetensors")
        own = load_file(tmp_path / name / "model" / "model.safetensors")
        assert own.keys() == exported[name].keys()
        assert all(torch.equal(own[key], exported[name][key]) for key in own)
    assert all((exported["run"][key] - exported["whole"][key]).abs().max() < 1e-5 for key in exported["run"])


@pytest.mark.slow
def test_a_killed_process_ends_the_others(tmp_path):
    """Without a word from it, the other one still ends within 30 seconds, and the run can go on."""
    processes = launch(2, "train", out=str(tmp_path), mesh={"shard": 2}, case=asdict(CASE), steps=3000, every=5)
    while not (tmp_path / "checkpoints" / "step-000005").exists():
        time.sleep(0.05)
    processes[1].kill()
    started = time.monotonic()
    (code, _, errors), _ = finish(processes, 40)
    assert time.monotonic() - started < 30
    assert code == 2, errors
    assert "another process" in errors


@pytest.mark.slow
def test_fifty_kills_while_saving(tmp_path):
    """Every step is saved, so most moments are in a save; one process is killed at a random one, fifty times.

    Each time the run goes on from a whole checkpoint; in the end all losses equal those of a run that nobody touched.
    """
    dice = random.Random(1)
    out, kills, steps = tmp_path / "killed", 0, 600
    while kills < 50:
        processes = launch(2, "train", out=str(out), mesh={"shard": 2}, case=asdict(CASE), steps=steps, every=1)
        before = max(told(out), default=0) if (out / "metrics.jsonl").exists() else 0
        until = time.monotonic() + 300
        while not (out / "metrics.jsonl").exists() or max(told(out), default=0) <= before:
            assert time.monotonic() < until, finish(processes, 1)
            assert all(p.poll() is None for p in processes), finish(processes, 1)
            time.sleep(0.05)
        time.sleep(dice.uniform(0, 0.3))
        for process in processes if dice.random() < 0.5 else [dice.choice(processes)]:
            process.kill()
        kills += 1
        finish(processes, 40)
    reached = max(told(out))
    ends = finish(
        launch(
            2,
            "train",
            out=str(out),
            mesh={"shard": 2},
            case=asdict(CASE),
            steps=steps,
            every=1,
            stop_at=[0, reached + 2],
        )
    )
    assert {code for code, _, _ in ends} == {0}, ends
    run(tmp_path / "whole", 2, mesh={"shard": 2}, steps=steps, stop_at=[0, reached + 2])
    whole, killed = told(tmp_path / "whole"), told(out)
    assert all(abs(whole[step] - killed[step]) < 1e-5 for step in whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "settings", "words"),
    [
        (2, {"mesh": {"data": 4}}, "asks for 4 processes (data 4), and there are 2"),
        (4, {"mesh": {"tensor": 4}}, "tensor = 4 does not divide the 2 key and value heads"),
        (2, {"natures": ["one", "other"]}, "process 1 was given another recipe"),
    ],
    ids=["world", "heads", "recipe"],
)
def test_what_cannot_be_is_said_on_every_process(tmp_path, count, settings, words):
    """Exit code 2, the reason, no traceback, no waiting."""
    started = time.monotonic()
    ends = run(tmp_path, count, **settings)
    assert time.monotonic() - started < 30
    for code, _, errors in ends:
        assert code == 2
        assert words in " ".join(errors.split())
        assert "Traceback" not in errors


@pytest.mark.slow
def test_a_meeting_place_that_cannot_be_reached(tmp_path):
    """Nobody listens on the port that the second process is told."""
    processes = launch(
        1,
        "train",
        out=str(tmp_path),
        mesh={"data": 2},
        case=asdict(CASE),
        steps=2,
        every=50,
        environment={"RANK": "1", "WORLD_SIZE": "2"},
        patience=3,
    )
    ((code, _, errors),) = finish(processes, 90)
    assert code == 2
    assert "process 1 cannot reach the others at 127.0.0.1" in errors
