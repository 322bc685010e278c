"""The Trainer: the one training loop of the project.

It draws batches, lets the engine take steps, spends the budget, and does what every run needs besides: learning-rate
schedule, validation, samples, metrics, checkpoints, resuming, Ctrl-C, plots. What is learned is the objective's business.

    result = Trainer.Config(budget=Budget(minutes=5)).build(model, next_token, loader, Path("runs/first")).run()

Running it again with the same folder goes on from the newest checkpoint, bit for bit as if it had never stopped: random
generators, data position and optimizer state are part of it, and validation and samples draw no random numbers that
training would see.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from rich.console import Console
from torch import nn

from penjing import __version__
from penjing.device import choose_device, choose_precision
from penjing.errors import ConfigError, TrainingError
from penjing.files import atomic_folder
from penjing.training import identity, randomness
from penjing.training.adamw import AdamW
from penjing.training.budget import Budget, Spent
from penjing.training.checkpoints import Checkpoint, Checkpoints, save_model
from penjing.training.engine import (
    Batch,
    Engine,
    NotFinite,
    Outcome,
    compile_blocks,
    count_tokens,
    origins,
    recompute_activations,
)
from penjing.training.interrupt import Interrupt
from penjing.training.metrics import MetricsLog, read_metrics
from penjing.training.muon import Muon
from penjing.training.objectives import Objective
from penjing.training.plots import plot_run
from penjing.training.progress import Reading, choose_display, duration
from penjing.training.schedules import WSD, Schedule


class Loader(Protocol):
    """Batches without end, whose position can be saved."""

    def __next__(self) -> Any:
        """The next batch."""

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a saved position."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    """Steps done, resumed ones included."""
    loss: float
    """Training loss of the last step."""
    tokens: int
    """Tokens read."""
    seconds: float
    """Wall-clock time, resumed runs included."""
    stopped: str
    """Why: "budget" or "interrupted"."""
    checkpoint: Path
    """The newest checkpoint."""
    best: Path | None
    """The checkpoint with the lowest validation loss."""
    validation: Mapping[str, float]
    """The last validation."""


class Trainer:
    """Trains a model on an objective until its budget is spent. See the module for what else it does."""

    @dataclass(frozen=True)
    class Config:
        """How to train; everything but the model, the objective and the data."""

        budget: Budget
        """When to stop."""
        optimizer: AdamW.Config | Muon.Config = field(default_factory=Muon.Config)
        """What updates the weights."""
        schedule: Schedule = field(default_factory=WSD)
        """From progress, 0 to 1, to a factor on the learning rates."""
        accumulate: int = 1
        """Micro-batches in a step."""
        grow: float = 0.0
        """The fraction of the run over which micro-batches in a step grow from 1 to `accumulate`."""
        clip: float | None = 1.0
        """The largest gradient norm; longer gradients are shortened to it. None for no limit."""
        precision: str = "auto"
        """What to compute in: "fp32", "bf16", or "auto" for what measures faster. Weights are float32 in any case."""
        device: str = "auto"
        """Where: "cpu", "cuda", "mps", or "auto"."""
        compile: bool = False
        """Compile the blocks with torch.compile: slow to start, faster afterwards."""
        gradient_checkpointing: bool = False
        """Keep only the blocks' inputs and compute the rest again: less memory, more time."""
        seed: int = 0
        """Starts the random generators (dropout)."""
        validate_every: int | None = None
        """Steps from validation to validation; None for ten, spread over the budget. There is always one at the end."""
        sample_every: int | None = None
        """Steps from sample to sample; None for one after each validation."""
        checkpoint_every: int | None = None
        """Steps from checkpoint to checkpoint; None for every five minutes."""
        keep: int = 2
        """How many of the newest checkpoints to keep, besides the best."""
        save_dtype: str = "fp32"
        """The final model's precision, "fp32" or "bf16"."""
        display: str = "auto"
        """"live", "lines", "quiet", or "auto": live on a terminal, else lines."""
        wandb: str | None = None
        """A Weights & Biases project to log to."""

        def __post_init__(self) -> None:
            for name in ("accumulate", "keep", "validate_every", "sample_every", "checkpoint_every"):
                value = getattr(self, name)
                if value is not None and value < 1:
                    raise ConfigError(f"{name} is {value}; it must be at least 1")
            if not 0 <= self.grow <= 1:
                raise ConfigError(f"grow is {self.grow}; it is a fraction of the run, from 0 to 1")
            if self.clip is not None and not self.clip > 0:
                raise ConfigError(f"clip is {self.clip}; it must be more than 0, or none at all")
            if self.save_dtype not in ("fp32", "bf16"):
                raise ConfigError(f"save_dtype is '{self.save_dtype}'; it is 'fp32' or 'bf16'")

        def build(self, model: nn.Module, objective: Objective, loader: Loader, out: Path, **more: Any) -> "Trainer":
            """A trainer; `more` is what `Trainer` takes besides."""
            return Trainer(self, model, objective, loader, out, **more)

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        objective: Objective,
        loader: Loader,
        out: Path,
        *,
        tokenizer: Any = None,
        validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        sample: Callable[[nn.Module], str] | None = None,
        console: Console | None = None,
    ):
        """Prepares a run; `run` starts it.

        Args:
            config: how to train.
            model: float32 weights; trained in place.
            objective: what to learn.
            loader: batches without end.
            out: the run's folder: `metrics.jsonl`, `checkpoints/`, `model/`, plots. An earlier run in it is resumed.
            tokenizer: saved beside the weights.
            validate: measures the model; its "loss", lower is better, chooses the best checkpoint.
            sample: a text by the model, shown now and then.
            console: where to show the run.
        """
        self.config = config
        self.model = model
        self.objective = objective
        self.loader = loader
        self.out = out
        self._tokenizer = tokenizer
        self._validate = validate
        self._sample = sample
        self._display = choose_display(config.display, console)
        self._checkpoints = Checkpoints(out / "checkpoints", config.keep, self._display.say)
        self._identity = self._describe()

    def run(self) -> Result:
        """Trains until the budget is spent or someone interrupts.

        Raises:
            TrainingError: a loss or gradient is not finite, a checkpoint cannot be written, or the folder holds
                another run.
        """
        self._clock = time.perf_counter()
        undo: Callable[[], None] | None = None
        with Interrupt() as interrupt:
            try:
                self._prepare()
                if self.config.gradient_checkpointing:
                    undo = recompute_activations(self.model)
                if self.config.compile:
                    compile_blocks(self.model)
                while not interrupt.asked and self.config.budget.progress(self._spent) < 1:
                    self._step()
                    self._after_step()
                return self._finish(interrupt.asked)
            finally:
                if undo:
                    undo()
                self._close()

    # --- beginning -------------------------------------------------------------------------------------------------

    def _describe(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it resumes."""
        config = self.config
        return {
            "model": identity.describe_model(self.model),
            "objective": identity.describe(self.objective),
            "optimizer": identity.describe(config.optimizer),
            "schedule": identity.describe(config.schedule),
            "accumulate": config.accumulate,
            "grow": config.grow,
            "clip": config.clip,
            "seed": config.seed,
        }

    def _prepare(self) -> None:
        self._spent = Spent()
        self._loss = float("nan")
        self._validation: Mapping[str, float] = {}
        self._score: float | None = None
        self._step_seconds = 0.0
        self._progress_before = 0.0
        self._pending: tuple[Outcome, dict[str, float], str] | None = None
        self._metrics: MetricsLog | None = None
        self._engine: Engine | None = None
        self._checkpoints.tidy()
        self._saved = self._checkpoints.newest()
        self._saved_at = time.perf_counter()
        self._engine = self._build_engine(self._saved)
        if self._saved:
            self._resume(self._saved)
        else:
            randomness.seed_everything(self.config.seed)
            self._tell_of_lost_steps(0)
        best = self._checkpoints.best()
        self._best_score = best.score if best and best.score is not None else float("inf")
        self._metrics = MetricsLog(
            self.out,
            int(self._spent.steps),
            wandb_project=self.config.wandb,
            config=identity.describe(self.config),
        )
        self._progress_before = self.config.budget.progress(self._spent)
        self.model.train()

    def _build_engine(self, saved: Checkpoint | None) -> Engine:
        device = choose_device(self.config.device)
        if saved:
            self._check_identity(saved)
        # a measurement could come out otherwise on another day, and the bits with it: a resumed run keeps its choice
        self._chosen = dict(saved.record["precision"]) if saved else {}
        dtype = self._choose("compute", self.config.precision, device)
        optimizer = self.config.optimizer
        if isinstance(optimizer, Muon.Config):
            self._choose("newton_schulz", optimizer.precision, device)
            optimizer = replace(optimizer, precision=self._chosen["newton_schulz"])
        return Engine(self.model, self.objective, optimizer, device=device, dtype=dtype, clip=self.config.clip)

    def _choose(self, what: str, asked: str, device: torch.device) -> torch.dtype:
        dtype, reason = choose_precision(self._chosen.get(what, asked) if asked == "auto" else asked, device)
        if what == "compute" and not self._chosen:
            self._display.say(f"training on {device.type} in {_NAMES[dtype]} ({reason}), for {self.config.budget}")
        self._chosen[what] = _NAMES[dtype]
        return dtype

    def _check_identity(self, saved: Checkpoint) -> None:
        before = dict(saved.record["identity"])
        differ = identity.differences(before, self._identity)
        fingerprint = saved.record["data"].get("fingerprint")
        if fingerprint != self.loader.state_dict().get("fingerprint"):
            differ.append("the data is not the data that it was trained on")
        asked = self.config.precision
        if asked not in ("auto", saved.record["precision"]["compute"]):
            differ.append(f"precision was {saved.record['precision']['compute']}, is now {asked}")
        if differ:
            raise TrainingError(
                f"{self.out} holds another run: {'; '.join(differ)}. "
                "Undo the change to go on with it, or choose another folder"
            )

    def _resume(self, saved: Checkpoint) -> None:
        assert self._engine
        with self._engine.weights.held():
            saved.load_weights(self.model)
        saved.load_optimizer(self._engine.optimizer, self._engine.weights.trained)
        saved.load_random()
        self.loader.load_state_dict(saved.record["data"])
        record = saved.record
        self._spent = Spent(record["step"], record["tokens"], record["seconds"])
        self._clock -= record["seconds"]
        self._loss, self._validation = record["loss"], record["validation"]
        self._score = saved.score
        self._display.say(f"going on from step {saved.step:,} ({saved.path})")
        if record["threads"] != torch.get_num_threads():
            self._display.say(
                f"it ran on {record['threads']} threads and now on {torch.get_num_threads()}: "
                "sums are added in another order, and the last bits may differ"
            )
        self._tell_of_lost_steps(saved.step)

    def _tell_of_lost_steps(self, resumed: int) -> None:
        lines = read_metrics(self.out / "metrics.jsonl")
        lost = max((line["step"] for line in lines), default=0) - resumed
        if lost > 0:
            self._display.say(f"{lost:,} step{'s' * (lost > 1)} after the last checkpoint were lost; they are done again")

    # --- a step ----------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        assert self._engine
        started = time.perf_counter()
        # a step is judged by where its middle lies, so that neither the first nor the last has a learning rate of 0
        before = self.config.budget.progress(self._spent)
        batches = [self._next_batch() for _ in range(self._micro_batches(before))]
        tokens = sum(count_tokens(batch) for batch in batches)
        middle = self._spent + Spent(0.5, tokens / 2, self._step_seconds / 2)
        factor = self.config.schedule(self.config.budget.progress(middle))
        self._origin = origins(batches)
        try:
            outcome = self._engine.step(batches, factor)
        except NotFinite as error:
            self._stop_for(error, int(self._spent.steps) + 1, self._origin)
        self._read_pending()
        now = time.perf_counter()
        self._step_seconds = now - started
        self._spent = Spent(self._spent.steps + 1, self._spent.tokens + tokens, now - self._clock)
        line = {
            "step": int(self._spent.steps),
            "tokens": int(self._spent.tokens),
            "seconds": round(self._spent.seconds, 4),
            "learning_rate": self._engine.optimizer.param_groups[0]["lr"],
            "tokens_per_second": round(tokens / self._step_seconds, 1),
        }
        self._pending = (outcome, line, self._origin)
        if self._engine.device.type == "cpu":
            self._read_pending()

    def _next_batch(self) -> Batch:
        try:
            return next(self.loader)
        except StopIteration:
            raise TrainingError(f"the loader ran out of batches at step {self._spent.steps:.0f}") from None

    def _micro_batches(self, progress: float) -> int:
        if progress >= self.config.grow:
            return self.config.accumulate
        return max(1, round(self.config.accumulate * progress / self.config.grow))

    def _read_pending(self) -> None:
        """Writes down the newest step whose numbers have arrived; on a GPU that is the one before."""
        if not self._pending:
            return
        outcome, line, origin = self._pending
        self._pending = None
        try:
            self._loss, norm = outcome.read()
        except NotFinite as error:
            self._stop_for(error, int(line["step"]), origin)
        assert self._metrics
        self._metrics.write({"step": line["step"], "loss": self._loss, **line, "grad_norm": norm, **outcome.metrics})
        spent = Spent(line["step"], line["tokens"], line["seconds"])
        self._display.step(
            Reading(
                step=int(line["step"]),
                loss=self._loss,
                learning_rate=line["learning_rate"],
                tokens_per_second=line["tokens_per_second"],
                progress=self.config.budget.progress(spent),
                seconds=spent.seconds,
                seconds_left=self.config.budget.seconds_left(spent),
            )
        )

    def _stop_for(self, error: NotFinite, step: int, origin: str) -> NoReturn:
        good = f"the last good checkpoint is {self._saved.path}" if self._saved else "there is no checkpoint yet"
        raise TrainingError(
            f"{error} at step {step} ({origin}); {good}. Try a lower learning rate, a longer warm-up or precision fp32"
        ) from None

    # --- between steps ---------------------------------------------------------------------------------------------

    def _after_step(self) -> None:
        step, progress = int(self._spent.steps), self.config.budget.progress(self._spent)
        self._score = None
        every = self.config.validate_every
        due = step % every == 0 if every else int(progress * 10) > int(self._progress_before * 10)
        self._progress_before = progress
        improved = False
        if due or progress >= 1:
            improved = self._run_validation()
        if self._sample and (step % self.config.sample_every == 0 if self.config.sample_every else due):
            self._run_sample()
        self._spend_time()
        every = self.config.checkpoint_every
        if improved or (step % every == 0 if every else time.perf_counter() - self._saved_at > _CHECKPOINT_SECONDS):
            self._save()

    def _run_validation(self) -> bool:
        """Measures the model; whether it is the best so far."""
        if not self._validate:
            return False
        with self._aside():
            self._validation = dict(self._validate(self.model))
        self._spend_time()
        assert self._metrics
        line = {"step": int(self._spent.steps), "seconds": round(self._spent.seconds, 4)}
        self._metrics.write({**line, "validation": self._validation})
        told = ", ".join(f"{name} {value:.4f}" for name, value in self._validation.items())
        self._display.say(f"step {self._spent.steps:,.0f}: validation {told}")
        self._score = self._validation.get("loss")
        if self._score is None or not self._score < self._best_score:
            return False
        self._best_score = self._score
        return True

    def _run_sample(self) -> None:
        assert self._sample
        with self._aside():
            self._display.sample(self._sample(self.model))

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Something done with the model that leaves no trace in its training."""
        self._read_pending()
        self.model.eval()
        with torch.no_grad(), randomness.preserved():
            yield
        self.model.train()

    def _spend_time(self) -> None:
        self._spent = replace(self._spent, seconds=time.perf_counter() - self._clock)

    def _save(self) -> None:
        assert self._engine
        assert self._metrics
        self._read_pending()  # a loss that is not finite must not reach a checkpoint
        self._metrics.flush()
        record = {
            "step": int(self._spent.steps),
            "tokens": int(self._spent.tokens),
            "seconds": self._spent.seconds,
            "loss": self._loss,
            "validation": self._validation,
            "score": self._score,
            "precision": self._chosen,
            "threads": torch.get_num_threads(),
            "data": self.loader.state_dict(),
            "identity": self._identity,
            "penjing": __version__,
            "torch": str(torch.__version__),
        }
        with self._engine.weights.held():
            self._saved = self._checkpoints.save(
                self.model, self._tokenizer, self._engine.optimizer, self._engine.weights.trained, record
            )
        self._saved_at = time.perf_counter()
        self._spend_time()

    # --- the end ---------------------------------------------------------------------------------------------------

    def _finish(self, interrupted: str) -> Result:
        assert self._engine
        if not self._saved or self._saved.step < self._spent.steps:
            self._save()
        assert self._saved
        if interrupted:
            self._display.say(
                f"{interrupted}: stopped after step {self._spent.steps:,.0f} and saved {self._saved.path}; "
                "run the same command again to go on from there"
            )
        else:
            dtype = next(dtype for dtype, name in _NAMES.items() if name == self.config.save_dtype)
            with self._engine.weights.held(dtype), atomic_folder(self.out / "model") as folder:
                save_model(folder, self.model, self._tokenizer)
            self._read_pending()
            if self._metrics:
                self._metrics.flush()
            plot_run(self.out)
            self._display.say(
                f"trained {self._spent.steps:,.0f} steps, {self._spent.tokens:,.0f} tokens "
                f"in {duration(self._spent.seconds)}: {self.out / 'model'}"
            )
        best = self._checkpoints.best()
        return Result(
            step=int(self._spent.steps),
            loss=self._loss,
            tokens=int(self._spent.tokens),
            seconds=self._spent.seconds,
            stopped="interrupted" if interrupted else "budget",
            checkpoint=self._saved.path,
            best=best.path if best else None,
            validation=self._validation,
        )

    def _close(self) -> None:
        """Leaves the model with its float32 weights and every file closed, however the run ended."""
        if self._engine:
            self._engine.weights.restore()
        if self._metrics:
            self._metrics.close()
        self._display.close()


_CHECKPOINT_SECONDS = 300.0
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
