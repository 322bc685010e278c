"""What a run tells: each step to metrics.jsonl and the display, once its numbers have arrived from the device."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penjing.training.budget import Budget, Spent
from penjing.training.engine import NotFinite, Outcome
from penjing.training.metrics import MetricsLog, read_metrics
from penjing.training.progress import Display, Reading

Watch = Callable[[Mapping[str, Any]], Sequence[str]]
"""Looks at a step's line of metrics; gives what there is to say. A TrainingError of its own ends the run."""


@dataclass(frozen=True)
class StepFacts:
    """What is known of a step without asking the device."""

    step: int
    tokens: int
    seconds: float
    learning_rate: float
    tokens_per_second: float


class Journal:
    """Keeps one step's outcome waiting, so that a GPU is asked only for numbers that it has long computed."""

    def __init__(
        self,
        out: Path | None,
        display: Display,
        budget: Budget,
        resume_from: int,
        wandb: str | None,
        config: Any,
        watch: "Watch | None" = None,
    ):
        """Opens the run's files; lines of steps after `resume_from` are dropped, and said.

        Args:
            out: the run's folder; None: another process writes.
            display: shows the run.
            budget: tells how far it is.
            resume_from: the step of the checkpoint that it goes on from, or 0.
            wandb: a Weights & Biases project, or None.
            config: what Weights & Biases shows as the configuration.
            watch: looks at each step's line.
        """
        self._display = display
        self._watch = watch
        self._budget = budget
        self._waiting: tuple[Outcome, StepFacts, str] | None = None
        self.loss = float("nan")
        self._metrics: MetricsLog | None = None
        if out is None:
            return
        lost = max((line["step"] for line in read_metrics(out / "metrics.jsonl")), default=0) - resume_from
        if lost > 0:
            display.say(f"{lost:,} step{'s' * (lost > 1)} after the last checkpoint were lost and will be done again")
        self._metrics = MetricsLog(out, resume_from, wandb_project=wandb, config=config)

    def add(self, outcome: Outcome, facts: StepFacts, origin: str) -> None:
        """Takes a step's outcome, and tells the one before it; on a CPU, where nothing is waited for, both."""
        self.settle()
        self._waiting = (outcome, facts, origin)
        if outcome.arrived:
            self.settle()

    def settle(self) -> None:
        """Tells the step that waits.

        Raises:
            NotFinite: its loss or gradient is not finite.
        """
        if not self._waiting:
            return
        outcome, facts, origin = self._waiting
        self._waiting = None
        try:
            self.loss, norm = outcome.read()
        except NotFinite as error:
            raise NotFinite(f"{error} at step {facts.step} ({origin})") from None
        known = asdict(facts)
        line = {"step": known.pop("step"), "loss": self.loss, **known, "grad_norm": norm, **outcome.metrics}
        self._write(line)
        spent = Spent(facts.step, facts.tokens, facts.seconds)
        self._display.step(
            Reading(
                step=facts.step,
                loss=self.loss,
                learning_rate=facts.learning_rate,
                tokens_per_second=facts.tokens_per_second,
                progress=self._budget.progress(spent),
                seconds=facts.seconds,
                seconds_left=self._budget.seconds_left(spent),
            )
        )
        for text in self._watch(line) if self._watch else ():
            self._display.say(text)

    def validation(self, spent: Spent, values: Mapping[str, float]) -> None:
        """Writes down a validation.

        Raises:
            NotFinite: one of its values is not finite.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise NotFinite(f"the validation's {name} is {value} at step {spent.steps:.0f}")
        line = {"step": int(spent.steps), "seconds": round(spent.seconds, 4), "validation": dict(values)}
        self._write(line)
        told = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._display.say(f"step {line['step']:,}: validation {told}")

    def flush(self) -> None:
        """Tells what waits and hands everything to the operating system."""
        self.settle()
        if self._metrics:
            self._metrics.flush()

    def close(self) -> None:
        """Closes the files."""
        if self._metrics:
            self._metrics.close()

    def _write(self, line: dict[str, Any]) -> None:
        if self._metrics:
            self._metrics.write(line)
