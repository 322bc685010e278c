"""What a run writes down: a line of JSON for each step, TensorBoard events, and Weights & Biases when asked for.

    {"step": 12, "loss": 6.1, "tokens": 49152, "seconds": 9.8, "learning_rate": 0.0024, "grad_norm": 0.71, ...}
    {"step": 12, "seconds": 10.2, "validation": {"loss": 6.2}}

`metrics.jsonl` never holds a step twice: a resumed run first drops the lines after its checkpoint.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penjing.errors import TrainingError
from penjing.files import atomic_file

Line = dict[str, Any]

SAMPLES = "samples.jsonl"
"""The texts that the model wrote during the run: a line each, `{"step": 500, "text": "Once upon ..."}`."""


def read_metrics(path: Path) -> list[Line]:
    """All whole lines of a metrics file; none when there is no file. A last line cut short by a crash is left out."""
    return [json.loads(line) for line in _whole_lines(path)]


def truncate_metrics(path: Path, step: int) -> None:
    """Drops the lines of later steps than `step`."""
    lines = list(_whole_lines(path))
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def add_sample(folder: Path, step: int, text: str) -> None:
    """Adds a text to the run's samples. Steps that a resumed run takes again come again; the later line counts.

    Raises:
        TrainingError: the disk is full.
    """
    path = folder / SAMPLES
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "text": text}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise TrainingError(f"{path} could not be written ({error.strerror or error}); free some space") from error


def _whole_lines(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return
                try:
                    json.loads(line)
                except json.JSONDecodeError:
                    raise TrainingError(f"{path}, line {number}: not JSON; remove the line and run again") from None
                yield line


class MetricsLog:
    """Writes each line to every place that was asked for."""

    def __init__(self, folder: Path, resume_from: int, *, wandb_project: str | None = None, config: Any = None):
        """Opens `folder/metrics.jsonl` and `folder/tensorboard/`.

        Args:
            folder: the run's folder.
            resume_from: the step of the checkpoint that the run goes on from; later lines are dropped. 0 starts anew.
            wandb_project: the Weights & Biases project to log to.
            config: what Weights & Biases shows as the run's configuration.

        Raises:
            TrainingError: Weights & Biases was asked for and is not installed, or the folder cannot be written.
        """
        self.path = folder / "metrics.jsonl"
        truncate_metrics(self.path, resume_from)
        with self._writing():
            self._file = self.path.open("a", encoding="utf-8")
            self._tensorboard = _TensorBoard(folder / "tensorboard", resume_from)
        self._flushed = time.monotonic()
        self._wandb = _start_wandb(folder, wandb_project, config) if wandb_project else None

    def write(self, line: Line) -> None:
        """Adds a line; it reaches the disk within a second or so.

        Raises:
            TrainingError: the disk is full.
        """
        values = _flatten(line)
        with self._writing():
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._tensorboard.write(line["step"], values)
        if time.monotonic() - self._flushed > 1:
            self.flush()
        if self._wandb:
            self._wandb.log(values, step=line["step"])

    def flush(self) -> None:
        """Hands everything written to the operating system; done before each checkpoint."""
        with self._writing():
            self._file.flush()
            self._tensorboard.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes."""
        with self._writing():
            self._file.close()
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self.path} could not be written ({error.strerror or error}); "
                "free some space and run the same command again to go on from the last checkpoint"
            ) from error


class _TensorBoard:
    """Scalars as TensorBoard events: one event a line, written by a thread of the event writer's own."""

    def __init__(self, folder: Path, resume_from: int):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))
        # tells TensorBoard to forget what a killed run logged after the checkpoint
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=resume_from + 1, session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=scalars)))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _flatten(line: Line) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, value in line.items():
        if name == "step":
            continue
        if isinstance(value, Mapping):
            values |= {f"{name}/{inner}": float(number) for inner, number in value.items()}
        else:
            values[f"train/{name}"] = float(value)
    return values


def _start_wandb(folder: Path, project: str, config: Any) -> Any:
    try:
        import wandb
    except ImportError:
        raise TrainingError("logging to Weights & Biases needs its package: pip install 'penjing[wandb]'") from None
    return wandb.init(project=project, dir=str(folder), config=config, resume="allow", id=_wandb_id(folder))


def _wandb_id(folder: Path) -> str:
    """The id that this run had before, so that a resumed run goes on in the same chart."""
    path = folder / "wandb-id"
    if not path.exists():
        with atomic_file(path) as temporary:
            temporary.write_text(f"{folder.resolve().name}-{time.time_ns():x}", encoding="utf-8")
    return path.read_text(encoding="utf-8")
