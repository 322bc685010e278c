"""What a person sees while a run goes on: a live bar on a terminal, a line now and then in a log file, or nothing."""

import math
import time
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from penjing.errors import ConfigError, nearest

DISPLAYS = ("auto", "live", "lines", "quiet")


@dataclass(frozen=True)
class Reading:
    """What one step showed."""

    step: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    progress: float
    """The fraction of the budget that is spent."""
    seconds: float
    seconds_left: float | None


class Display(Protocol):
    """Shows a run."""

    def step(self, reading: Reading) -> None:
        """A step is done."""

    def say(self, text: str) -> None:
        """Something to tell: a validation, a checkpoint, how to resume."""

    def sample(self, text: str) -> None:
        """What the model writes at present."""

    def close(self) -> None:
        """The run is over."""


def choose_display(name: str, console: Console | None = None) -> Display:
    """The display of that name; "auto" is live on a terminal and lines elsewhere.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in DISPLAYS:
        raise ConfigError(f"display is '{name}'{nearest(name, DISPLAYS)}")
    console = console or Console()
    if name == "auto":
        name = "live" if console.is_terminal else "lines"
    return {"live": LiveDisplay, "lines": LineDisplay, "quiet": QuietDisplay}[name](console)


class QuietDisplay:
    """Shows nothing at all."""

    def __init__(self, console: Console | None = None):
        pass

    def step(self, reading: Reading) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def sample(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LineDisplay:
    """A plain line for the first step and then every `every` seconds, for log files and pipes."""

    def __init__(self, console: Console | None = None, every: float = 10.0):
        self._console = console or Console()
        self._every = every
        self._next = 0.0
        self._smooth = _Smooth()

    def step(self, reading: Reading) -> None:
        """A line when one is due."""
        loss = self._smooth(reading.loss)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._print(_line(reading, loss))

    def say(self, text: str) -> None:
        """The text on a line of its own."""
        self._print(text)

    def sample(self, text: str) -> None:
        """The text, indented."""
        self._print("\n".join(f"    | {line}" for line in text.strip().splitlines()))

    def close(self) -> None:
        """Nothing is left to show."""

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """A bar that stays at the bottom of the terminal, with what happens scrolling by above it."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console()
        self._smooth = _Smooth()
        # the bar is drawn only when told to: a thread of its own would take time from a small machine
        self._live = Live(console=self._console, auto_refresh=False)
        self._drawn = 0.0

    def step(self, reading: Reading) -> None:
        """Redraws the bar, four times a second at most."""
        self._live.start()
        loss = self._smooth(reading.loss)
        self._last = (reading, loss)
        if time.monotonic() - self._drawn > 0.25:
            self._drawn = time.monotonic()
            self._draw()

    def say(self, text: str) -> None:
        """The text, above the bar."""
        self._live.start()
        self._live.console.print(escape(text), highlight=False)

    def sample(self, text: str) -> None:
        """The text, indented and dim, above the bar."""
        self._live.start()
        body = "\n".join(f"  │ {line}" for line in text.strip().splitlines())
        self._live.console.print(f"[dim]{escape(body)}[/dim]", highlight=False)

    def close(self) -> None:
        """The bar as it stands, then the terminal is left alone."""
        if self._drawn:
            self._draw()
        self._live.stop()

    def _draw(self) -> None:
        reading, loss = self._last
        row = Table.grid(padding=(0, 2))
        left = f"{duration(reading.seconds_left)} left" if reading.seconds_left is not None else ""
        row.add_row(
            ProgressBar(total=1.0, completed=reading.progress, width=24),
            f"{reading.progress:4.0%}",
            f"step [b]{reading.step:,}[/b]",
            f"loss [b]{loss:.3f}[/b]",
            f"{reading.tokens_per_second:,.0f} tokens/s",
            f"lr {reading.learning_rate:.2g}",
            left,
        )
        self._live.update(row, refresh=True)


class _Smooth:
    """A running mean that is fair from its first value on."""

    def __init__(self, keep: float = 0.9):
        self._keep, self._sum, self._weight = keep, 0.0, 0.0

    def __call__(self, value: float) -> float:
        self._sum = self._keep * self._sum + (1 - self._keep) * value
        self._weight = self._keep * self._weight + (1 - self._keep)
        return self.value

    @property
    def value(self) -> float:
        return self._sum / self._weight if self._weight else math.nan


def _line(reading: Reading, loss: float) -> str:
    parts = [
        f"{reading.progress:4.0%}",
        f"step {reading.step:,}",
        f"loss {loss:.4f}",
        f"{reading.tokens_per_second:,.0f} tokens/s",
        f"lr {reading.learning_rate:.2e}",
        duration(reading.seconds),
    ]
    if reading.seconds_left is not None:
        parts.append(f"{duration(reading.seconds_left)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A time span for people.

    >>> duration(42), duration(200), duration(7500)
    ('42 s', '3 min 20 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
