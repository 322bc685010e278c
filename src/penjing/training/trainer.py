"""The Trainer: the one training loop of the project.

It draws batches, lets the engine take steps, spends the budget, and does what every run needs besides: learning-rate
schedule, validation, samples, metrics, checkpoints, resuming, Ctrl-C, plots. What is learned is the objective's
business.

    result = Trainer.Config(budget=Budget(minutes=5)).build(model, next_token, loader, Path("runs/first")).run()

Running it again with the same folder goes on from the newest checkpoint, bit for bit as if it had never stopped: random
generators, data position and optimizer state are part of it, and validation and samples draw no random numbers that
training would see.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from penjing import __version__
from penjing.device import choose_precision
from penjing.errors import ConfigError, DataError, TrainingError
from penjing.training import allocator, float8, identity, randomness
from penjing.training.adamw import AdamW
from penjing.training.budget import Budget, Spent
from penjing.training.checkpoints import Checkpoint
from penjing.training.crew import Crew
from penjing.training.deferred import Fill
from penjing.training.engine import (
    Engine,
    NotFinite,
    compile_blocks,
    count_tokens,
    origins,
)
from penjing.training.interfaces import Batch, Loader, Result
from penjing.training.interrupt import Interrupt
from penjing.training.journal import Journal, StepFacts, Watch
from penjing.training.lock import only_run_in
from penjing.training.metrics import add_sample
from penjing.training.muon import Muon
from penjing.training.objectives import Objective
from penjing.training.plots import plot_run
from penjing.training.progress import choose_display, duration
from penjing.training.recomputation import mode_of, recompute_activations
from penjing.training.saving import check_savable
from penjing.training.schedules import WSD, Schedule

_CHECKPOINT_SECONDS = 300.0
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
        float8: bool = False
        """Let the blocks' linear maps multiply float8: `penjing.training.float8`."""
        device: str = "auto"
        """Where: "cpu", "cuda", "mps", or "auto"."""
        compile: bool = False
        """Compile the blocks with torch.compile: slow to start, faster afterwards."""
        gradient_checkpointing: str | bool = "none"
        """What blocks compute again for the backward pass, to save memory: "none"; "selective", all but the results of
        linear maps and of attention; "full", everything. True stands for "full", false for "none"."""
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
        keep_every: int | None = None
        """Keep every checkpoint whose steps are a multiple of this, too."""
        save_in_background: bool = True
        """Train on while a checkpoint is written, from a copy in memory of weights and optimizer; else wait for it."""
        save_dtype: str = "fp32"
        """The final model's precision, "fp32" or "bf16"."""
        display: str = "auto"
        """"live", "lines", "quiet", or "auto": live on a terminal, else lines."""
        wandb: str | None = None
        """A Weights & Biases project to log to."""

        def __post_init__(self) -> None:
            for name in ("accumulate", "keep", "keep_every", "validate_every", "sample_every", "checkpoint_every"):
                value = getattr(self, name)
                if value is not None and value < 1:
                    raise ConfigError(f"{name} is {value}; it must be at least 1")
            if not 0 <= self.grow <= 1:
                raise ConfigError(f"grow is {self.grow}; it is a fraction of the run, from 0 to 1")
            if self.clip is not None and not self.clip > 0:
                raise ConfigError(f"clip is {self.clip}; it must be more than 0, or none at all")
            if self.save_dtype not in _DTYPES:
                raise ConfigError(f"save_dtype is '{self.save_dtype}'; it is 'fp32' or 'bf16'")
            mode_of(self.gradient_checkpointing)

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
        crew: Crew | None = None,
        fill: Fill | None = None,
        watch: Watch | None = None,
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
            crew: the processes that train together, this one among them; None for it alone.
            fill: puts the first weights into a model on the meta device, once processes have divided it; a run that is
                resumed takes them from its checkpoint.
            watch: is shown each step's line of metrics; what it returns is said, and an error of its own ends the run.
        """
        self.config = config
        self.model = model
        self.objective = objective
        self.loader = loader
        self.out = out
        self._tokenizer = tokenizer
        self._validate = validate
        self._sample = sample
        self._fill = fill
        self._watch = watch
        self._crew = crew or Crew()
        self._display = choose_display(config.display if self._crew.first else "quiet", console)
        self._checkpoints = self._crew.checkpoints(
            out / "checkpoints",
            config.keep,
            self._display.say,
            keep_every=config.keep_every,
            background=config.save_in_background,
        )
        self._saved: Checkpoint | None = None
        self._saved_at = 0.0
        self._spent = Spent()
        self._step_seconds = 0.0
        self._tenth = 0
        self._validation: Mapping[str, float] = {}
        self._score: float | None = None
        self._best_score = math.inf
        self._validated: int | None = None

    def run(self) -> Result:
        """Trains until the budget is spent or someone interrupts.

        Raises:
            TrainingError: a loss or gradient is not finite, a checkpoint cannot be written, or the folder holds
                another run.
            CheckpointError: a layer of the model is one that no folder can hold.
        """
        check_savable(self.model)
        with Interrupt(self._crew.same_signal_within) as interrupt, ExitStack() as stack:
            if self._crew.first:
                stack.enter_context(only_run_in(self.out))
            self._interrupt, self._stop = interrupt, ""
            self._clock = time.perf_counter()
            self._identity = self._describe()  # of the whole model, before it is divided
            stack.callback(self._display.close)
            stack.callback(self._checkpoints.close)
            saved = self._checkpoints.newest()
            if self.config.float8:
                stack.callback(self._convert_to_float8())
            engine = self._build_engine(saved)
            stack.callback(engine.weights.restore)
            if engine.device.type == "cpu":
                stack.enter_context(allocator.kept())
            if saved:
                self._resume(saved, engine)
            else:
                self._crew.seed(self.config.seed, 0)
            self._journal = self._open_journal()
            stack.callback(self._journal.close)
            stack.callback(recompute_activations(self.model, self.config.gradient_checkpointing))
            if self.config.compile:
                stack.callback(compile_blocks(self.model))
            self.model.train()
            self._look_at_clock()
            try:
                while not self._stop and self._progress < 1:
                    self._step(engine)
                    self._after_step(engine)
                return self._finish(engine, self._stop)
            except NotFinite as error:
                self._checkpoints.close()
                self._look_at_saves()
                good = (
                    f"the last good checkpoint is {self._saved.path}" if self._saved else "there is no checkpoint yet"
                )
                raise TrainingError(
                    f"{error}; {good}. Try a lower learning rate, a longer warm-up or precision fp32"
                ) from None

    @property
    def _progress(self) -> float:
        return self.config.budget.progress(self._spent)

    # --- beginning -------------------------------------------------------------------------------------------------

    def _describe(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one that it resumes."""
        config = self.config
        return {
            "model": identity.describe_model(self.model),
            "objective": identity.describe(self.objective),
            "optimizer": identity.describe(config.optimizer),
            "schedule": identity.describe(config.schedule),
            "rows": getattr(self.loader, "rows", None),
            "accumulate": config.accumulate,
            "grow": config.grow,
            "clip": config.clip,
            "seed": config.seed,
            **({"float8": True} if config.float8 else {}),
        }

    def _convert_to_float8(self) -> Callable[[], None]:
        """Has the model's maps multiply float8; returns what undoes it."""
        float8.check(self._crew.device(self.config.device))
        return float8.convert(self.model, pieces=self._crew.tensor)

    def _build_engine(self, saved: Checkpoint | None) -> Engine:
        if saved:
            identity.refuse_changes(saved.record["identity"], self._identity, self.out)
        device = self._crew.device(self.config.device)
        # a measurement could come out otherwise on another day, and the bits with it: a resumed run keeps its choices
        self._precision = dict(saved.record["precision"]) if saved else {}
        reason = self._choose_precision("compute", self.config.precision, device)
        optimizer = self.config.optimizer
        if isinstance(optimizer, Muon.Config):
            self._choose_precision("newton_schulz", optimizer.precision, device)
            optimizer = replace(optimizer, precision=self._precision["newton_schulz"])
        told = f"training on {device.type} in {self._precision['compute']} ({reason}), for {self.config.budget}"
        self._display.say(told)
        dtype = _DTYPES[self._precision["compute"]]
        fill = None if saved else self._fill
        return self._crew.engine(
            self.model, self.objective, optimizer, device=device, dtype=dtype, clip=self.config.clip, fill=fill
        )

    def _choose_precision(self, what: str, asked: str, device: torch.device) -> str:
        """Settles one precision; returns why it is that one."""
        before = self._precision.get(what)
        if asked == "auto" and before:
            return "as before"
        chosen, reason = choose_precision(asked, device)
        name = next(name for name, dtype in _DTYPES.items() if dtype == chosen)
        self._precision[what], reason = self._crew.told([name, reason])
        if before:
            identity.refuse_changes({f"{what} precision": before}, {f"{what} precision": asked}, self.out)
        return reason

    def _resume(self, saved: Checkpoint, engine: Engine) -> None:
        self._checkpoints.load(saved, self.model, engine)
        if self._crew.size > 1:
            self._crew.seed(self.config.seed, saved.step)
        try:
            self.loader.load_state_dict(saved.record["data"])
        except DataError as error:
            raise TrainingError(f"{self.out} holds another run: {error}") from None
        self._saved = saved
        self._spent = Spent(saved.step, saved.record["tokens"], saved.record["seconds"])
        self._clock -= self._spent.seconds
        self._validation = saved.record["validation"]
        self._score = saved.score
        self._validated = saved.step if saved.score is not None else None
        self._tenth = int(self._progress * 10)
        best = self._checkpoints.best()
        self._best_score = best.score if best and best.score is not None else math.inf
        self._display.say(f"going on from step {saved.step:,} ({saved.path})")
        if saved.record["threads"] != torch.get_num_threads():
            self._display.say(
                f"it ran on {saved.record['threads']} threads and now runs on {torch.get_num_threads()}: "
                "sums are added in another order, and last bits may differ"
            )

    def _open_journal(self) -> Journal:
        journal = Journal(
            self.out if self._crew.first else None,
            self._display,
            self.config.budget,
            int(self._spent.steps),
            self.config.wandb,
            identity.describe(self.config),
            self._watch,
        )
        if self._saved and self._saved.step:
            journal.loss = self._saved.record["loss"]
        return journal

    # --- a step ----------------------------------------------------------------------------------------------------

    def _step(self, engine: Engine) -> None:
        started = self._spent.seconds
        batches = [self._next_batch() for _ in range(self._micro_batches())]
        tokens = self._crew.tokens(sum(map(count_tokens, batches)))
        # a step is judged by where its middle lies, so that the last one has a learning rate above 0, too
        middle = self._spent + Spent(0.5, tokens / 2, self._step_seconds / 2)
        factor = self.config.schedule(self.config.budget.progress(middle))
        step, origin = int(self._spent.steps) + 1, origins(batches)
        try:
            outcome = engine.step(batches, factor)
        except NotFinite as error:
            raise NotFinite(f"{error} at step {step} ({origin})") from None
        self._spent = Spent(step, self._spent.tokens + tokens, self._seconds())
        self._step_seconds = self._spent.seconds - started
        facts = StepFacts(
            step=step,
            tokens=int(self._spent.tokens),
            seconds=round(self._spent.seconds, 4),
            learning_rate=engine.optimizer.param_groups[0]["lr"],
            tokens_per_second=round(tokens / self._step_seconds, 1),
        )
        self._journal.add(outcome, facts, origin)

    def _next_batch(self) -> Batch:
        try:
            return next(self.loader)
        except StopIteration:
            raise TrainingError(f"the loader ran out of batches after step {self._spent.steps:.0f}") from None

    def _micro_batches(self) -> int:
        if self._progress >= self.config.grow:
            return self.config.accumulate
        return max(1, round(self.config.accumulate * self._progress / self.config.grow))

    # --- between steps ---------------------------------------------------------------------------------------------

    def _after_step(self, engine: Engine) -> None:
        config, step = self.config, int(self._spent.steps)
        self._look_at_saves()
        self._score = None
        tenth, self._tenth = self._tenth, int(self._progress * 10)
        due = step % config.validate_every == 0 if config.validate_every else self._tenth > tenth
        improved = bool(self._validate) and (due or self._progress >= 1) and self._run_validation(engine)
        if self._sample and self._crew.size == 1 and (step % config.sample_every == 0 if config.sample_every else due):
            with self._aside():
                text = self._sample(self.model)
            self._display.sample(text)
            add_sample(self.out, step, text)
        self._look_at_clock()
        if config.checkpoint_every:
            save = step % config.checkpoint_every == 0
        else:
            save = self._spent.seconds - self._saved_at > _CHECKPOINT_SECONDS
        if save or improved:
            self._save(engine)

    def _run_validation(self, engine: Engine) -> bool:
        """Measures the model; whether it is the best so far."""
        assert self._validate
        self._validated = int(self._spent.steps)
        with self._aside():
            self._validation = dict(self._validate(engine.reader))
        self._look_at_clock()
        self._journal.validation(self._spent, self._validation)
        self._score = self._validation.get("loss")
        improved = self._score is not None and self._score < self._best_score
        if improved and self._score is not None:
            self._best_score = self._score
        return improved

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Something done with the model that leaves no trace in its training."""
        self._journal.settle()
        self.model.eval()
        with torch.no_grad(), randomness.preserved():
            yield
        self.model.train()

    def _look_at_clock(self) -> None:
        self._spent = replace(self._spent, seconds=self._seconds())

    def _seconds(self) -> float:
        """The time that the run has taken; looks, too, whether someone wants it to stop."""
        seconds, asked = self._crew.agreed(time.perf_counter() - self._clock, bool(self._interrupt.asked))
        if asked:
            self._stop = self._interrupt.asked or "another process was asked to stop"
        return seconds

    def _save(self, engine: Engine) -> None:
        self._journal.flush()  # a loss that is not finite must not reach a checkpoint
        record = {
            "step": int(self._spent.steps),
            "tokens": int(self._spent.tokens),
            "seconds": self._spent.seconds,
            "loss": self._journal.loss if self._spent.steps else None,  # NaN is no JSON
            "validation": self._validation,
            "score": self._score,
            "precision": self._precision,
            "threads": torch.get_num_threads(),
            "data": self.loader.state_dict(),
            "identity": self._identity,
            "penjing": __version__,
            "torch": str(torch.__version__),
        }
        self._checkpoints.save(self.model, self._tokenizer, engine, record)
        self._look_at_clock()
        self._saved_at = self._spent.seconds

    def _look_at_saves(self, wait: bool = False) -> None:
        """Takes note of a checkpoint that has become whole, and raises what one has failed by."""
        self._saved = self._checkpoints.settled(wait) or self._saved

    # --- the end ---------------------------------------------------------------------------------------------------

    def _finish(self, engine: Engine, interrupted: str) -> Result:
        late = bool(self._validate) and not interrupted and self._validated != self._spent.steps
        if late:  # the budget ran out while something else was done after the last step
            self._run_validation(engine)
        self._look_at_saves(wait=True)
        if late or not self._saved or self._saved.step < self._spent.steps:
            self._save(engine)
            self._look_at_saves(wait=True)
        assert self._saved
        told = f"{self._spent.steps:,.0f} steps, {self._spent.tokens:,.0f} tokens, {duration(self._spent.seconds)}"
        if interrupted:
            self._display.say(
                f"{interrupted}: stopped after {told}; saved {self._saved.path}; "
                "run the same command again to go on from there"
            )
        else:
            dtype = _DTYPES[self.config.save_dtype]
            self._checkpoints.write_model(self.out / "model", self.model, self._tokenizer, engine, dtype)
            self._journal.flush()
            if self._crew.first:
                plot_run(self.out)
            self._display.say(f"trained {told}, loss {self._journal.loss:.3f}: {self.out / 'model'}")
        best = self._checkpoints.best()
        return Result(
            step=int(self._spent.steps),
            loss=self._journal.loss,
            tokens=int(self._spent.tokens),
            seconds=self._spent.seconds,
            stopped="interrupted" if interrupted else "budget",
            checkpoint=self._saved.path,
            best=best.path if best else None,
            validation=self._validation,
        )
