"""The database that conversations are kept in: SQLite in a file, or PostgreSQL by URL; its faults as errors of ours.

    database = Database.open("chats.db", serve=True)
    with database.writing() as connection: ...      # a transaction: all of it is stored when the block ends, or nothing

SQLite is used as a server needs it: a write-ahead log (readers never wait), foreign keys, a limited wait for a locked
file, and one writer of this process at a time. What a user says is on the disk when we say so (`synchronous=FULL`); the
pieces of a running reply only need to survive the death of the process, not of the machine, so they are written without
waiting for the disk (`durable=False`).

Running replies belong to a process. With SQLite that is the one that holds the lock file; a second server on the same
file is refused. With PostgreSQL each server has a number and holds the advisory lock of that number on a connection
of its own: when it dies, even by kill -9, the lock is free, and everyone can see that nobody writes its replies any
more (`alive`).
"""

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from penjing.serving.conversations import schema
from penjing.serving.conversations.errors import BusyError, FullError, StorageError

PATIENCE = 5.0
"""Seconds to wait for a locked database."""
_CONNECTIONS = 8

_SQLITE: dict[int, tuple[type[StorageError], str]] = {
    5: (BusyError, "is locked by another program; try again"),
    6: (BusyError, "is locked by another program; try again"),
    8: (StorageError, "may not be written: it or its folder is read-only"),
    10: (StorageError, "could not be read or written: the disk reports an error"),
    11: (StorageError, "is damaged; put a backup in its place"),
    13: (FullError, "could not be written: the disk is full; nothing of this request was stored"),
    14: (StorageError, "cannot be opened: its folder is missing or closed to us"),
    26: (StorageError, "is damaged, or no database of conversations; put a backup in its place, or name another"),
}
"""By SQLite's result codes, https://sqlite.org/rescode.html."""
_POSTGRES = {"53100": "could not be written: the disk is full; nothing of this request was stored"}
_PASSING = ("08", "40", "53", "55", "57")
"""PostgreSQL's classes of faults that pass: connections, rollbacks, resources, locks, an operator's intervention."""


def default_path() -> Path:
    """Where conversations are kept when nothing else is said: in the folder that the system has for such data."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "penjing" / "conversations.db"


class Database:
    """Where conversations are kept. Make one with `open`."""

    def __init__(self, url: URL, patience: float):
        self.url = url
        self.patience = patience
        self.sqlite = url.get_backend_name() == "sqlite"
        self.server = secrets.randbits(62) + 1
        """The number of this process among those that write replies."""
        self._engine = self._connect(durable=True)
        self._hasty = self._connect(durable=False)
        self._turn = threading.Lock()
        self._serving: FileLock | Connection | None = None

    @classmethod
    def open(cls, place: str | Path, *, serve: bool = False, patience: float = PATIENCE) -> "Database":
        """Opens a database, makes or updates its tables.

        Args:
            place: a path, or a URL (`sqlite:///chats.db`, `postgresql://user@host/name`).
            serve: whether replies are written; only one process may do so with one SQLite file.
            patience: seconds to wait for a lock.

        Raises:
            StorageError: it is damaged, another program's, of a newer version, or in use by another server; and as of
                `writing`.
        """
        database = cls(_url(place), patience)
        try:
            if database.sqlite:
                database._make_private()
            if serve:
                database._begin_serving()
            with database.writing() as connection:
                if database.sqlite:
                    database._check(connection)
                schema.migrate(connection)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing.

        Raises:
            StorageError: as of `writing`.
        """
        engine = self._engine if self.sqlite else self._engine.execution_options(isolation_level="REPEATABLE READ")
        with self._told(), engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that may write; an exception in the block takes all of it back.

        Args:
            durable: whether the disk has it when the block ends, or the operating system is trusted to write it soon.

        Raises:
            BusyError: the database stayed locked for longer than we wait, or cannot be reached now.
            FullError: the disk is full.
            StorageError: it is damaged or failed otherwise.
        """
        engine = self._engine if durable else self._hasty
        if self.sqlite and not self._turn.acquire(timeout=self.patience):
            raise BusyError(f"{self.name} is locked by other requests; try again")
        try:
            with self._told(), engine.execution_options(writes=True).connect() as connection, connection.begin():
                yield connection
        finally:
            if self.sqlite:
                self._turn.release()

    @property
    def name(self) -> str:
        """What it is called in messages; without its password."""
        return str(self.url.database) if self.sqlite else self.url.render_as_string(hide_password=True)

    def alive(self, server: int) -> bool:
        """Whether the process of that number still runs (and may be writing a reply)."""
        if server == self.server:
            return True
        if self.sqlite:
            return False  # one at a time, and it is us who have the lock
        with self.reading() as connection:
            taken = connection.execute(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": server})
            return not taken.scalar_one()

    def renew(self) -> None:
        """Makes sure that others see us alive, after the server of the database may have been started anew."""
        if self.sqlite or not isinstance(self._serving, Connection):
            return
        try:
            self._serving.execute(text("SELECT 1"))
        except SQLAlchemyError:
            with suppress(SQLAlchemyError):
                self._serving.invalidate()
                self._serving.close()
            self._begin_serving()

    def close(self) -> None:
        """Lets go of the database."""
        if isinstance(self._serving, FileLock):
            self._serving.release()
        elif self._serving is not None:
            with suppress(SQLAlchemyError):
                self._serving.invalidate()  # closes the session and with it its lock
                self._serving.close()
        self._serving = None
        self._engine.dispose()
        self._hasty.dispose()

    def _connect(self, durable: bool) -> Engine:
        if not self.sqlite:
            arguments: dict[str, Any] = {
                "connect_timeout": max(1, round(self.patience)),
                "options": f"-c lock_timeout={round(self.patience * 1000)}"
                + ("" if durable else " -c synchronous_commit=off"),
            }
        else:
            arguments = {"timeout": self.patience}
        try:
            engine = create_engine(
                self.url,
                connect_args=arguments,
                pool_size=_CONNECTIONS,
                max_overflow=0,
                pool_timeout=self.patience,
                pool_pre_ping=not self.sqlite,
            )
        except ModuleNotFoundError:
            raise StorageError(
                "PostgreSQL needs a driver that is not installed: pip install 'penjing[postgres]'"
            ) from None
        if self.sqlite:
            _prepare(engine, "FULL" if durable else "NORMAL")
        return engine

    def _make_private(self) -> None:
        """Conversations are for their owner: the file is made without rights for others."""
        path = Path(str(self.url.database))
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as fault:
            raise StorageError(f"{path} cannot be opened: {fault.strerror}") from None

    def _begin_serving(self) -> None:
        if self.sqlite:
            lock = FileLock(f"{self.url.database}.lock", mode=0o600)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise StorageError(
                    f"{self.name} is in use by another server; stop that one, or give this one another place"
                ) from None
            except OSError as fault:
                raise StorageError(f"{self.name}.lock cannot be written: {fault.strerror}") from None
            self._serving = lock
            return
        with self._told():
            connection = self._hasty.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._serving = connection
            connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": self.server})

    def _check(self, connection: Connection) -> None:
        """Refuses a damaged file: what is read from one cannot be trusted, and writing makes it worse."""
        try:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        except DBAPIError as fault:
            if _code(fault.orig) not in (11, 26):
                raise
            found = str(fault.orig)
        if found != "ok":
            raise StorageError(
                f"{self.name} is damaged ({' '.join(str(found).split())}): nothing was changed. Put a backup in its "
                f"place, or save what can be read with: sqlite3 {self.name} .recover | sqlite3 saved.db"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Faults of the database as errors of ours."""
        try:
            yield
        except PoolTimeout:
            raise BusyError(f"{self.name} is busy with other requests; try again") from None
        except DBAPIError as fault:
            raise self._error(fault.orig) from fault
        except sqlite3.Error as fault:  # of what a new connection is told first
            raise self._error(fault) from fault

    def _error(self, fault: BaseException | None) -> StorageError:
        reason = " ".join(str(fault).split())
        if self.sqlite:
            kind, what = _SQLITE.get(_code(fault), (StorageError, "failed"))
            return kind(f"{self.name} {what} ({reason})")
        state = getattr(fault, "sqlstate", None) or ""
        if state in _POSTGRES:
            return FullError(f"{self.name} {_POSTGRES[state]}")
        if state.startswith(_PASSING) or (not state and type(fault).__name__ == "OperationalError"):
            return BusyError(f"{self.name} cannot answer now ({reason}); try again")
        return StorageError(f"{self.name} failed: {reason}")


def _code(fault: BaseException | None) -> int:
    """SQLite's primary result code."""
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF


def _prepare(engine: Engine, synchronous: str) -> None:
    """Our own transactions (the driver's begin too late), and what each connection is told first."""

    @event.listens_for(engine, "connect")
    def told(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _url(place: str | Path) -> URL:
    written = str(place)
    if "://" not in written:
        return URL.create("sqlite", database=str(Path(written).expanduser()))
    try:
        url = make_url(written)
    except (ArgumentError, ValueError):
        raise StorageError("this is no address of a database; one looks like postgresql://user@host/name") from None
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite":
        raise StorageError(f"conversations are kept in sqlite or postgresql, not in {url.get_backend_name()}")
    if url.database in (None, "", ":memory:"):
        raise StorageError("conversations need a file; a database in memory would forget them")
    return url
