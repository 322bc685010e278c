"""A bar for work whose end is known and a counter for work whose end is not; nothing where no one is looking."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

Report = Callable[..., None]
"""`report(done, total)`; a total of 0, or none, is not known."""


@contextmanager
def track(console: Console, title: str) -> Iterator[Report]:
    """Shows how far a piece of work is; the bar goes away when the work is done."""
    if not console.is_terminal:
        yield lambda done, total=0: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)

        def report(done: int, total: int = 0) -> None:
            progress.update(task, completed=done, total=total or None)

        yield report
