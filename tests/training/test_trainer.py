"""The loop: what it writes, shows, measures, and when it stops."""

import errno
import itertools
import json
import signal
import struct
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import penjing.training.trainer as trainer_module
from penjing.errors import CheckpointError, ConfigError, TrainingError
from penjing.models.folder import load_model
from penjing.nn.norms import RMSNorm
from penjing.training.budget import Budget
from penjing.training.engine import compile_blocks
from penjing.training.lock import only_run_in
from penjing.training.metrics import MetricsLog, read_metrics
from penjing.training.objectives import Loss
from penjing.training.plots import running_mean
from penjing.training.schedules import WSD, Cosine, Linear
from penjing.training.trainer import Trainer
from tests.training import tiny


def test_learns_to_count(tmp_path):
    """Rows that count up by 1 or 2: only the second token of a row, a coin toss, cannot be known. 100 steps bring the
    loss from ln 24 = 3.18 below 0.9, and after 3 4 5 6 7 the saved model expects 8, or else 9.
    """
    tiny.run(tmp_path, steps=100, optimizer="muon", schedule=Linear())
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(3.18, abs=0.1)
    assert sum(line["loss"] for line in lines[-10:]) / 10 < 0.9
    logits = load_model(tmp_path / "model")(torch.tensor([[3, 4, 5, 6, 7]]))
    assert set(logits[0, -1].topk(2).indices.tolist()) == {8, 9}


def test_metrics_hold_a_line_for_each_step(tmp_path):
    """Its keys; its loss against the engine's own for the first step; learning rates against the schedule's middle."""
    tiny.run(tmp_path, steps=10, schedule=Linear(warmup=0.2), validate=lambda _: {"loss": 2.5}, validate_every=5)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 11))
    assert {"loss", "tokens", "seconds", "learning_rate", "grad_norm", "tokens_per_second"} < steps[0].keys()
    assert [line["tokens"] for line in steps] == [48 * step for step in range(1, 11)]
    assert all(before["seconds"] <= after["seconds"] for before, after in itertools.pairwise(steps))
    expected = [1e-2 * Linear(warmup=0.2)((step + 0.5) / 10) for step in range(10)]
    assert [line["learning_rate"] for line in steps] == pytest.approx(expected)
    batch = next(tiny.CountingLoader())
    logits = tiny.model()(batch.tokens)[batch.mask]
    assert steps[0]["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, batch.targets[batch.mask]).item()
    )
    assert [(line["step"], line["validation"]) for line in lines if "validation" in line] == [
        (5, {"loss": 2.5}),
        (10, {"loss": 2.5}),
    ]


def test_an_objectives_own_metrics_are_logged_as_means(tmp_path):
    def objective(model, batch):
        return Loss(model(batch.tokens).square().sum(), 4, {"accuracy": 3.0})

    trainer = tiny.trainer(tmp_path, steps=2, accumulate=2)
    trainer.objective = objective
    trainer.run()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["accuracy"] == 0.75


def test_tensorboard_shows_the_same_numbers(tmp_path):
    """TensorBoard's own reader, before and after an abort and a resume: each step once, the loss of metrics.jsonl."""

    class Breaking(tiny.CountingLoader):
        def __next__(self):
            if self.drawn == 7:
                raise TrainingError("broken")
            return super().__next__()

    with pytest.raises(TrainingError, match="broken"):
        tiny.run(tmp_path, steps=10, checkpoint_every=4, loader=Breaking())
    tiny.run(tmp_path, steps=10, checkpoint_every=4, validate=lambda _: {"loss": 1.5}, validate_every=10)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    expected = {line["step"]: line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line}
    assert losses == pytest.approx(expected)
    assert len(events.Scalars("train/loss")) == 10
    assert events.Scalars("validation/loss")[0].value == 1.5


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_number_that_is_not_finite_stops_the_run(tmp_path, what):
    """The error names step, batch and last good checkpoint, and the checkpoint holds no NaN."""

    def objective(model, batch):
        loss = Loss(model(batch.tokens).square().sum(), 4)
        if batch.origin != "row 6":
            return loss
        factor = float("nan") if what == "loss" else 1.0
        # the square root of zero is zero, and its slope is infinite
        return Loss(loss.total * factor + (model.head.weight * 0).abs().sqrt().sum(), 4)

    trainer = tiny.trainer(tmp_path, checkpoint_every=5)
    trainer.objective = objective
    with pytest.raises(TrainingError, match=rf"the {what} is nan at step 6 \(batch from row 6\).*step-000005"):
        trainer.run()
    for weight in (*trainer.model.parameters(), *load_model(tmp_path / "checkpoints" / "step-000005").parameters()):
        assert weight.isfinite().all()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_validation_and_samples_leave_no_trace(tmp_path):
    """They draw random numbers and switch dropout off; weights end as without them, exactly, in float32 and bf16."""

    def validate(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"loss": torch.rand(()).item()}

    for precision in ("fp32", "bf16"):
        ends = []
        for more in ({}, {"validate": validate, "validate_every": 2, "sample": lambda _: str(torch.rand(3))}):
            trainer = tiny.trainer(tmp_path / f"{precision}{len(ends)}", dropout=0.3, precision=precision, **more)
            trainer.run()
            ends.append(list(trainer.model.parameters()))
        assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_validation_is_spread_over_any_budget(tmp_path):
    """Ten of them when nothing is said, the last at the very end; by tokens as by steps."""
    for name, budget in (("steps", Budget(steps=40)), ("tokens", Budget(tokens=40 * 48))):
        tiny.run(tmp_path / name, budget=budget, validate=lambda _: {"loss": 1.0})
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        assert [line["step"] for line in lines if "validation" in line] == list(range(4, 41, 4))


def test_a_budget_in_minutes_is_kept_and_decays_in_full(tmp_path, monkeypatch):
    """On a clock that the data and the validation alone move: a step takes 1 s, a validation every 8 steps 4 s. In 62 s
    there is time for 42 steps and 5 validations; the learning rate falls by 1/62 a step, and by five of these across a
    validation, to half a step above zero. All within rounding.
    """
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(trainer_module, "time", clock)

    class Ticking(tiny.CountingLoader):
        def __next__(self):
            clock.now += 1
            return super().__next__()

    def validate(_):
        clock.now += 4
        return {"loss": 1.0}

    schedule = WSD(warmup=0.0, decay=1.0)
    budget = Budget(minutes=62 / 60)
    result = tiny.run(tmp_path, budget=budget, schedule=schedule, loader=Ticking(), validate=validate, validate_every=8)
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line]
    assert (result.step, len(lines)) == (42, 42)
    rates = [line["learning_rate"] / 1e-2 for line in lines]
    starts = [step + 4 * (step // 8) for step in range(42)]
    expected = [1.0, *(1 - (start + 0.5) / 62 for start in starts[1:])]  # how long the first takes is not yet known
    assert rates == pytest.approx(expected)
    assert rates[-1] == pytest.approx(0.5 / 62)


def test_micro_batches_grow(tmp_path):
    """From 1 to 4 over the first half of sixteen steps, then 4: counted by tokens."""
    tiny.run(tmp_path, steps=16, accumulate=4, grow=0.5)
    tokens = [0, *(line["tokens"] for line in read_metrics(tmp_path / "metrics.jsonl"))]
    sizes = [(after - before) // 48 for before, after in itertools.pairwise(tokens)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[8:] == [4] * 8
    assert {1, 2, 3, 4} == set(sizes)


def test_plots_are_drawn(tmp_path):
    """PNG files of 960 by 576 pixels, by their own headers."""
    tiny.run(tmp_path, steps=30, validate=lambda _: {"loss": 2.0})
    for name in ("loss.png", "learning_rate.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", content[16:24]) == (960, 576)


def test_a_smoothed_curve_does_not_lag():
    """A straight line stays itself, to rounding; a single spike is spread evenly over its neighbours."""
    assert running_mean([float(i) for i in range(50)], 5) == pytest.approx(list(range(50)))
    assert running_mean([0.0, 0, 0, 3, 0, 0, 0], 1) == pytest.approx([0, 0, 1, 1, 1, 0, 0])


def test_lines_tell_what_happens(tmp_path, capsys):
    """No terminal: plain lines with loss, speed, learning rate and time left, the sample indented, no control codes."""
    tiny.run(
        tmp_path, display="auto", validate=lambda _: {"loss": 2.5}, sample=lambda _: "one\n[two]", validate_every=6
    )
    said = capsys.readouterr().out
    for part in ("training on cpu in fp32 (asked for), for 12 steps", "step 1  loss 3.", "tokens/s", " left"):
        assert part in said
    assert "step 6: validation loss 2.5000" in said
    assert "    | one\n    | [two]" in said
    assert "trained 12 steps, 576 tokens" in said
    assert "\x1b" not in said


def test_a_terminal_shows_a_bar(tmp_path):
    """Drawn by rich on a pretended terminal: the bar's text, what is said above it, and brackets left as they are."""
    console = Console(force_terminal=True, width=120, record=True)
    tiny.run(tmp_path, display="auto", console=console, sample=lambda _: "[two]", validate=lambda _: {"loss": 2.5})
    text = console.export_text()
    assert "validation loss 2.5000" in text
    assert "│ [two]" in text
    assert "step 1" in text


def test_quiet_says_nothing(tmp_path, capsys):
    tiny.run(tmp_path, display="quiet", sample=lambda _: "text")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_wandb_without_its_package_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match=r"pip install 'penjing\[wandb\]'"):
        tiny.run(tmp_path, wandb="project")


def test_wandb_gets_the_same_numbers(tmp_path, monkeypatch):
    """A stand-in for its package that writes down what it is told; after a resume the run has the same id."""
    told = []
    fake = SimpleNamespace(
        init=lambda **settings: told.append(settings) or fake,
        log=lambda values, step: told.append((step, values)),
        finish=lambda: told.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tiny.run(tmp_path, steps=1, wandb="project")
    tiny.run(tmp_path, steps=2, wandb="project")
    first, (step, values), end, second = told[:4]
    assert (first["project"], first["id"], end, step) == ("project", second["id"], "finished", 1)
    assert values["train/loss"] == read_metrics(tmp_path / "metrics.jsonl")[0]["loss"]


def test_a_full_disk_under_the_metrics_is_a_clear_error(tmp_path, monkeypatch):
    """The file refuses what was buffered, as a full disk makes it do."""

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    log = MetricsLog(tmp_path, 0)
    log.write({"step": 1, "loss": 2.0})
    monkeypatch.setattr(log, "_file", SimpleNamespace(flush=full))
    with pytest.raises(TrainingError, match=r"metrics.jsonl could not be written \(No space left"):
        log.flush()


def test_a_validation_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match="the validation's loss is nan at step 3; there is no checkpoint yet"):
        tiny.run(tmp_path, validate=lambda _: {"loss": float("nan")}, validate_every=3)


def test_an_interrupt_before_the_first_step_can_be_resumed(tmp_path):
    """The checkpoint of step 0 is valid JSON and resumes to the same weights as an uninterrupted run, exactly."""
    trainer = tiny.trainer(tmp_path / "a")
    first_save = trainer._checkpoints.newest
    trainer._checkpoints.newest = lambda: signal.raise_signal(signal.SIGINT) or first_save()
    assert trainer.run().step == 0
    json.loads(
        (tmp_path / "a" / "checkpoints" / "step-000000" / "trainer.json").read_text(), parse_constant=pytest.fail
    )
    one, other = tiny.trainer(tmp_path / "a"), tiny.trainer(tmp_path / "b")
    one.run()
    other.run()
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_a_torn_last_line_of_metrics_is_dropped(tmp_path):
    tiny.run(tmp_path, steps=4)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 5, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4]
    tiny.run(tmp_path, steps=5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_the_loader_may_not_end(tmp_path):
    with pytest.raises(TrainingError, match="ran out of batches after step 0"):
        tiny.run(tmp_path, loader=_Ended())


class _Ended(tiny.CountingLoader):
    def __next__(self):
        raise StopIteration


@pytest.mark.parametrize(
    "wrong",
    [
        {"accumulate": 0},
        {"clip": 0.0},
        {"grow": 2.0},
        {"keep": 0},
        {"save_dtype": "fp16"},
        {"checkpoint_every": 0},
        {"gradient_checkpointing": "some"},
    ],
)
def test_refuses_settings_that_make_no_sense(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Trainer.Config(budget=Budget(steps=1), **wrong)


def test_an_unknown_display_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'quiet'"):
        tiny.trainer(tmp_path, display="quite")


def test_gradient_checkpointing_changes_nothing(tmp_path):
    """Weights after twelve steps with dropout, exactly equal with and without; the blocks are as before afterwards."""
    ends = []
    for switch in ("none", "selective", "full", True):
        trainer = tiny.trainer(tmp_path / str(switch), dropout=0.2, gradient_checkpointing=switch, schedule=Cosine())
        trainer.run()
        assert "forward" not in vars(trainer.model.blocks[0])
        ends.append(list(trainer.model.parameters()))
    for first, *others in zip(*ends, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_a_model_that_no_checkpoint_can_hold_is_refused_before_training(tmp_path):
    class Unknown(RMSNorm):
        @dataclass(frozen=True)
        class Config(RMSNorm.Config):
            pass

    config = tiny.model().config
    model = replace(config, norm=Unknown.Config()).build()
    with pytest.raises(CheckpointError, match=r"Unknown\.Config is not one of Penjing's layers"):
        tiny.trainer(tmp_path, model=model).run()
    assert not list(tmp_path.rglob("*.jsonl"))


def test_the_last_step_is_always_validated(tmp_path, monkeypatch):
    """Also when the budget runs out while a checkpoint is written, between the last step and its validation."""
    save = Trainer._save

    def slow_save(self, engine):
        save(self, engine)
        self._spent = replace(self._spent, seconds=self._spent.seconds + 3600)

    monkeypatch.setattr(Trainer, "_save", slow_save)
    monkeypatch.setattr(Trainer, "_look_at_clock", lambda self: None)
    result = tiny.run(
        tmp_path, budget=Budget(minutes=30), validate_every=500, checkpoint_every=3, validate=lambda _: {"loss": 1.0}
    )
    assert (result.step, result.validation) == (3, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "validation" in line] == [3]


def test_two_runs_do_not_share_a_folder(tmp_path):
    with only_run_in(tmp_path), pytest.raises(TrainingError, match="another run is writing into"):
        tiny.run(tmp_path)
    assert tiny.run(tmp_path, steps=2).step == 2


def test_a_batch_of_another_size_is_another_run(tmp_path):
    class Rows(tiny.CountingLoader):
        rows = 4

    class MoreRows(tiny.CountingLoader):
        rows = 8

    tiny.run(tmp_path, steps=2, loader=Rows())
    with pytest.raises(TrainingError, match="rows was 4, is now 8"):
        tiny.run(tmp_path, steps=4, loader=MoreRows())


def test_compiled_blocks_are_as_before_afterwards():
    model = tiny.model()
    undo = compile_blocks(model)
    assert all(block._compiled_call_impl is not None for block in model.blocks)
    undo()
    assert all(block._compiled_call_impl is None for block in model.blocks)
