"""Resumed = uninterrupted, bit for bit: after a stop, after Ctrl-C, after `kill -9` at a random moment."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from penjing.data.loader import PackedLoader
from penjing.data.shards import Shards, write
from penjing.errors import TrainingError
from penjing.training.budget import Budget
from penjing.training.interrupt import Interrupt
from penjing.training.metrics import read_metrics
from penjing.training.objectives import next_token
from penjing.training.schedules import Cosine
from tests.training import tiny


def _same(one: Path, other: Path) -> None:
    """Every tensor of two checkpoints (weights, optimizer, random state) and every metric but the times is equal."""
    for name in ("model", "optimizer", "random"):
        first, second = load_file(one / f"{name}.safetensors"), load_file(other / f"{name}.safetensors")
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), key
    timed = ("seconds", "tokens_per_second")
    lines = [
        [
            {key: value for key, value in line.items() if key not in timed}
            for line in read_metrics(run / "metrics.jsonl")
        ]
        for run in (one.parents[1], other.parents[1])
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_equals_uninterrupted(tmp_path, optimizer, precision):
    """With dropout, accumulation, clipping, a schedule and validation; stopped after 5 and after 7 of 12 steps by
    Ctrl-C, each part with a new model object whose weights are noise. All tensors and metrics are exactly equal.
    """
    how = {
        "optimizer": optimizer,
        "precision": precision,
        "dropout": 0.1,
        "accumulate": 2,
        "grow": 0.5,
        "clip": 0.5,
        "validate": lambda model: {"loss": model(torch.arange(8)[None]).square().mean().item() + torch.rand(()).item()},
        "validate_every": 3,
    }
    straight = tiny.run(tmp_path / "straight", **how)
    # by `grow`, steps 1 to 5 are of one micro-batch and later ones of two: 5 batches are 5 steps, 9 are 7
    for batches, steps in ((5, 5), (9, 7), (None, 12)):
        trainer = tiny.trainer(tmp_path / "parts", loader=_Interrupting(batches), **how)
        if steps > 5:
            for weight in trainer.model.parameters():
                torch.nn.init.normal_(weight.data)
        torch.manual_seed(steps)  # whatever the process drew before must not matter
        result = trainer.run()
        assert result.step == steps
    _same(straight.checkpoint, result.checkpoint)


class _Interrupting(tiny.CountingLoader):
    """Sends the process SIGINT, as Ctrl-C does, with the given batch."""

    def __init__(self, batch: int | None):
        super().__init__()
        self._last = batch

    def __next__(self):
        batch = super().__next__()
        if self.drawn == self._last:
            signal.raise_signal(signal.SIGINT)
        return batch


def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    result = tiny.run(tmp_path, loader=_Interrupting(4), display="lines")
    said = " ".join(capsys.readouterr().out.split())
    assert (result.stopped, result.step) == ("interrupted", 4)
    assert "Ctrl-C: stopped after 4 steps" in said
    assert "run the same command again to go on from there" in said
    assert not (tmp_path / "model").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_aborts(tmp_path):
    """It comes while the first is still being served; what was saved before stays."""

    class Impatient(tiny.CountingLoader):
        def __next__(self):
            if self.drawn == 5:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
            return super().__next__()

    with pytest.raises(KeyboardInterrupt):
        tiny.run(tmp_path, loader=Impatient(), checkpoint_every=3)
    assert (tmp_path / "checkpoints" / "step-000003" / "trainer.json").exists()
    assert tiny.run(tmp_path).step == 12


def test_a_signal_that_comes_twice_at_once_may_count_as_one():
    """As under torchrun, which passes on the Ctrl-C that every process was sent by the terminal already."""
    with Interrupt(same_within=60) as interrupt:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert interrupt.asked == "SIGTERM"
    with Interrupt(same_within=1e-9):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def _kill_at_random(out: Path, how: dict, seed: int) -> None:
    """Starts the run in a process of its own and kills it, -9, at some moment after its first steps."""
    command = [sys.executable, "-m", "tests.training.tiny", str(out), json.dumps(how)]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": f"{root}/src:{root}"})
    checkpoints = out / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed: give it more steps"


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_survives_kill_9(tmp_path, seed, capsys):
    """Killed at a random moment, perhaps in the middle of a save; the resumed run ends as one that was never killed."""
    how = {"optimizer": "muon", "precision": "bf16", "dropout": 0.1, "accumulate": 2, "checkpoint_every": 1}
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    _kill_at_random(killed, {**how, "steps": 2000}, seed)
    reached = max(int(path.name[5:]) for path in (killed / "checkpoints").glob("step-*"))
    # both with the budget of the killed run, on which the learning rate depends, and stopped three steps further on
    results = [
        tiny.run(out, steps=2000, loader=_Interrupting(2 * (reached + 3)), display="lines", **how)
        for out in (killed, straight)
    ]
    assert [result.step for result in results] == [reached + 3] * 2
    assert f"going on from step {reached:,}" in capsys.readouterr().out
    _same(*(result.checkpoint for result in results))


def test_lost_steps_are_told_and_done_again(tmp_path, capsys):
    """Checkpoints every four steps, an abort in step 7: two steps are lost, and no step is in the metrics twice."""
    with pytest.raises(TrainingError, match="step 7"):
        tiny.run(tmp_path, checkpoint_every=4, loader=_Poisoned(7))
    tiny.run(tmp_path, checkpoint_every=4, display="lines")
    assert "2 steps after the last checkpoint were lost" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))


class _Poisoned(tiny.CountingLoader):
    """Fails at its n-th batch, as a damaged file would."""

    def __init__(self, number: int):
        super().__init__()
        self._number = number

    def __next__(self):
        if self.drawn + 1 == self._number:
            raise TrainingError(f"poisoned at step {self._number}")
        return super().__next__()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optimizer": "muon"}, "optimizer.kind was .AdamW., is now .Muon."),
        ({"clip": 0.3}, "clip was 1.0, is now 0.3"),
        ({"seed": 5}, "seed was 0, is now 5"),
        ({"schedule": Cosine()}, "schedule.kind was .WSD., is now .Cosine."),
        ({"precision": "bf16"}, "precision was .fp32., is now .bf16."),
        ({"dropout": 0.1}, r"model.config.layers\[0\].dropout was 0.0, is now 0.1"),
    ],
)
def test_a_changed_run_is_refused_by_name(tmp_path, change, named):
    tiny.run(tmp_path, steps=2)
    with pytest.raises(TrainingError, match=f"holds another run: .*{named}"):
        tiny.run(tmp_path, **{"steps": 4, **change})


def test_an_objective_with_settings_can_be_resumed(tmp_path):
    """A partial function's text holds an address in memory, which differs in each process: its parts are compared."""
    for chunk, refused in ((64, False), (64, False), (32, True)):
        trainer = tiny.trainer(tmp_path, steps=2)
        trainer.objective = functools.partial(lambda model, batch, chunk: next_token(model, batch), chunk=chunk)
        if refused:
            with pytest.raises(TrainingError, match=r"chunk was 64, is now 32"):
                trainer.run()
        else:
            trainer.run()


def test_changed_data_is_refused(tmp_path):
    """The packed loader over shards of other documents."""
    tokenizer = SimpleNamespace(
        vocab_size=tiny.VOCAB,
        eos_id=tiny.VOCAB - 1,
        prefix_ids=[],
        special_tokens={},
        token_bytes=lambda number: bytes([number]),
    )

    def shards(name: str, seed: int) -> Shards:
        generator = torch.Generator().manual_seed(seed)
        documents = [torch.randint(tiny.VOCAB, (30,), generator=generator).numpy() for _ in range(20)]
        return write(documents, tokenizer, tmp_path / name)

    config = PackedLoader.Config(batch=2, context=8)
    tiny.run(tmp_path / "run", steps=2, loader=config.build(shards("one", 1)))
    with pytest.raises(TrainingError, match=r"holds another run: .*data"):
        tiny.run(tmp_path / "run", steps=4, loader=config.build(shards("other", 2)))


def test_a_finished_run_is_not_trained_again(tmp_path):
    """Run once more with the same budget, it returns what it had; with a longer one it goes on."""
    first = tiny.run(tmp_path)
    again = tiny.run(tmp_path)
    assert (again.step, again.loss, again.checkpoint) == (first.step, first.loss, first.checkpoint)
    assert tiny.run(tmp_path, steps=15).step == 15


def test_elapsed_time_goes_on(tmp_path):
    """A budget in minutes counts the time before the stop: what was spent then is not given again."""
    tiny.run(tmp_path, steps=3)
    record = tmp_path / "checkpoints" / "step-000003" / "trainer.json"
    state = json.loads(record.read_text())
    record.write_text(json.dumps({**state, "seconds": 100.0}))
    result = tiny.run(tmp_path, budget=Budget(minutes=1.5))
    assert result.step == 3
    assert result.seconds >= 100
