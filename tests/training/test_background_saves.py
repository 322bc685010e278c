"""Checkpoints that are written while training goes on: the same bytes, whole before a run ends, and no failure lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import penjing.training.checkpoints as checkpoints_module
import penjing.training.tensor_files as tensor_files
from penjing.errors import TrainingError
from penjing.training.objectives import next_token
from tests.training import tiny
from tests.training.test_resume import _Interrupting, _same

PATIENCE = 60  # seconds after which a writer that waits for training gives up; passing tests never wait so long


class Gate:
    """Stands in for `save_file`: the first file of the first save is written once the gate is open."""

    def __init__(self, monkeypatch):
        self.opened, self.timely = threading.Event(), True
        write = tensor_files.save_file

        def gated(tensors, path, metadata):
            self.timely = self.opened.wait(PATIENCE) and self.timely
            write(tensors, path, metadata)

        monkeypatch.setattr(tensor_files, "save_file", gated)


class Opening(tiny.CountingLoader):
    """Opens the gate with its n-th batch, and may do something else then."""

    def __init__(self, gate: Gate, batch: int, then=lambda: None):
        super().__init__()
        self._gate, self._at, self._then = gate, batch, then

    def __next__(self):
        batch = super().__next__()
        if self.drawn == self._at:
            self._gate.opened.set()
            self._then()
        return batch


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_goes_on_and_the_checkpoint_is_of_the_step_it_was_taken_at(
    tmp_path, monkeypatch, optimizer, precision
):
    """The save of step 2 can only be written once step 5 has begun. Oracle: a run that writes at once; every tensor of
    every checkpoint and every metric but the times is equal.
    """
    how = {
        "optimizer": optimizer,
        "precision": precision,
        "dropout": 0.1,
        "steps": 8,
        "checkpoint_every": 6,
        "keep": 9,
        "validate_every": 2,
    }
    tiny.run(tmp_path / "at-once", save_in_background=False, validate=_scores(), **how)
    gate = Gate(monkeypatch)
    tiny.run(tmp_path / "behind", loader=Opening(gate, 5), validate=_scores(), **how)
    assert gate.timely, "training waited for the checkpoint"
    for step in (2, 6, 8):
        _same(*(tmp_path / name / "checkpoints" / f"step-{step:06d}" for name in ("at-once", "behind")))


def _scores():
    """A validation that is better than any before at its first call only, so that it is step 2 that is saved."""
    losses = iter([1.0, *([2.0] * 9)])
    return lambda _: {"loss": next(losses)}


def test_what_the_record_says_is_of_that_step_too(tmp_path, monkeypatch):
    """A loader that hands out its own, changing dictionary: the record has what was in it at the step."""
    gate = Gate(monkeypatch)

    class Live(Opening):
        def __init__(self):
            super().__init__(gate, 5)
            self.state = {"drawn": 0}

        def __next__(self):
            self.state["drawn"] += 1
            return super().__next__()

        def state_dict(self):
            return self.state

    tiny.run(tmp_path, loader=Live(), steps=6, checkpoint_every=3)
    record = json.loads((tmp_path / "checkpoints" / "step-000003" / "trainer.json").read_text())
    assert (record["step"], record["data"], record["format"]) == (3, {"drawn": 3}, 1)


def test_a_save_waits_for_the_one_before(tmp_path, monkeypatch):
    """With a save at every step there are never two snapshots: the threads that write are never two."""
    write, writing, most = tensor_files.save_file, [], []

    def watched(tensors, path, metadata):
        writing.append(path.parent.name)
        most.append(len(set(writing)))
        threading.Event().wait(0.01)
        write(tensors, path, metadata)
        writing.remove(path.parent.name)

    monkeypatch.setattr(tensor_files, "save_file", watched)
    tiny.run(tmp_path, steps=6, checkpoint_every=1, keep=9)
    assert max(most) == 1
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 6


def test_writing_at_once_takes_no_copies_and_no_thread(tmp_path, monkeypatch):
    write = tensor_files.save_file

    def watched(tensors, path, metadata):
        assert threading.current_thread() is threading.main_thread()
        write(tensors, path, metadata)

    def copied(tensors):
        raise AssertionError("a copy was taken")

    monkeypatch.setattr(tensor_files, "save_file", watched)
    monkeypatch.setattr(checkpoints_module, "copies", copied)
    trainer = tiny.trainer(tmp_path, steps=4, checkpoint_every=2, save_in_background=False)
    frozen = trainer.model.norm.weight.requires_grad_(False)
    trainer.run()
    assert not frozen.requires_grad  # what is saved without a copy is not changed by it either


def test_a_full_disk_stops_the_run_at_its_next_step_and_nothing_is_lost_before(tmp_path, monkeypatch):
    """The save of step 4 fails once training has gone on to step 5; the run of 1000 steps ends there and says why."""
    write, gate = tensor_files.save_file, threading.Event()

    def full(tensors, path, metadata):
        if "step-000004" in path.parent.name:
            assert gate.wait(PATIENCE)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(tensors, path, metadata)

    class Noticing(tiny.CountingLoader):
        def __next__(self):
            if self.drawn == 4:
                gate.set()
            return super().__next__()

    monkeypatch.setattr(tensor_files, "save_file", full)
    loader = Noticing()
    with pytest.raises(TrainingError, match=r"step 4 could not be written .*No space left.*step-000002.*same command"):
        tiny.run(tmp_path, steps=1000, checkpoint_every=2, loader=loader)
    assert loader.drawn <= 6  # the next save is due then, and waits for this one
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    assert tiny.run(tmp_path, steps=1000, loader=_Interrupting(7)).step == 7


@pytest.mark.parametrize("failing", ["random.safetensors", "trainer.json"])
def test_a_full_disk_at_the_last_save_is_no_success(tmp_path, monkeypatch, failing):
    """Whatever could not be written, the run does not end as if it had been."""
    place = tensor_files if failing.endswith("safetensors") else sys.modules["penjing.training.saving"]
    name = "save_file" if failing.endswith("safetensors") else "write_json"
    write = getattr(place, name)

    def full(*arguments):
        if any(str(argument).endswith(failing) for argument in arguments if isinstance(argument, Path)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(place, name, full)
    with pytest.raises(TrainingError, match=r"step 3 could not be written .*there is none yet"):
        tiny.run(tmp_path, steps=3)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert not (tmp_path / "model").exists()


def _fail():
    raise TrainingError("the data fell out")


def _insist():
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("end", "error"), [(_fail, TrainingError), (_insist, KeyboardInterrupt)])
def test_however_a_run_ends_its_last_save_is_whole(tmp_path, monkeypatch, capsys, end, error):
    """By an error, or by a second Ctrl-C, in step 3 while the checkpoint of step 2 is being written, which goes on for
    a quarter of a second.
    """
    gate, write = Gate(monkeypatch), tensor_files.write_tensors

    def slow(path, tensors):
        threading.Event().wait(0.25)
        write(path, tensors)

    monkeypatch.setattr(checkpoints_module, "write_tensors", slow)
    with pytest.raises(error):
        tiny.run(tmp_path, checkpoint_every=2, loader=Opening(gate, 3, end), display="lines")
    assert "the checkpoint of step 2 is still being written; ending after it" in " ".join(
        capsys.readouterr().out.split()
    )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    for thread in threading.enumerate():
        if thread.name == "checkpoint":  # it has said that it is done, and takes a moment to end
            thread.join(5)
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
    monkeypatch.undo()
    tiny.run(tmp_path, display="lines")
    assert "going on from step 2" in capsys.readouterr().out


def test_a_loss_that_is_no_number_names_the_checkpoint_that_was_being_written(tmp_path, monkeypatch):
    gate, loader = Gate(monkeypatch), None

    def broken(model, batch):
        loss = next_token(model, batch)
        if loader.drawn == 4:
            gate.opened.set()
            return replace(loss, total=loss.total * float("nan"))
        return loss

    trainer = tiny.trainer(tmp_path, checkpoint_every=3)
    trainer.objective, loader = broken, trainer.loader
    with pytest.raises(TrainingError, match=r"nan at step 4 .*the last good checkpoint is .*step-000003"):
        trainer.run()
    assert gate.timely


@pytest.mark.slow
def test_kill_9_while_a_checkpoint_is_being_written(tmp_path, capsys):
    """Killed at the sight of a half-written folder; the run goes on from the checkpoint before and ends as one that was
    never killed, bit for bit.
    """
    how = {"optimizer": "muon", "precision": "bf16", "dropout": 0.1, "checkpoint_every": 1, "steps": 3000}
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.training.tiny", str(killed), json.dumps(how)]
    for _ in range(20):
        process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": f"{root}/src:{root}"})
        until = time.monotonic() + 300
        while time.monotonic() < until:
            whole = list(killed.glob("checkpoints/step-*"))
            if len(whole) > 1 and list(killed.glob("checkpoints/.step-*.partial")):
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        if list(killed.glob("checkpoints/.step-*.partial")):
            break
    assert list(killed.glob("checkpoints/.step-*.partial")), "never killed in the middle of a save"
    reached = max(int(path.name[5:]) for path in killed.glob("checkpoints/step-*"))
    del how["steps"]
    results = [
        tiny.run(out, steps=3000, loader=_Interrupting(reached + 3), display="lines", **how)
        for out in (killed, straight)
    ]
    said = capsys.readouterr().out
    assert f"step-{reached + 1:06d} was being written when the run was killed; it is ignored" in " ".join(said.split())
    assert f"going on from step {reached:,}" in said
    _same(*(result.checkpoint for result in results))
