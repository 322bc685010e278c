"""One run a folder: two that write into the same one would destroy each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penjing.errors import TrainingError


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Holds the folder while entered; the system lets go of it when the process ends, however it ends.

    Where there are no such locks (Windows), it does nothing.

    Raises:
        TrainingError: another process holds it, or the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise TrainingError(f"{folder} cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"another run is writing into {folder}; wait for it, stop it, or choose another folder"
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        yield
