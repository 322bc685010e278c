"""A real PostgreSQL for the tests, where it is installed, and both databases behind one name."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penjing.serving.conversations.store import Store

_SECONDS = 60


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


def _user() -> str | None:
    """Whom it runs as: PostgreSQL refuses to run as root."""
    if os.getuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL that runs for these tests alone: in a folder of its own, on a socket in it, no port."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg")
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="penjing-postgres-"))
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    data, log = folder / "data", folder / "log"
    options = f"-c listen_addresses='' -k {folder} -c fsync=off -c max_connections=60 -c shared_buffers=16MB"

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, *arguments],
            user=user,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            stdout=subprocess.DEVNULL,  # not a pipe: the server would keep it open
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
        )
        if done.returncode:
            said = log.read_text(errors="replace") if log.exists() else ""
            raise RuntimeError(f"{program} ended with {done.returncode}: {said[-2000:]}")

    try:
        run("initdb", "-D", str(data), "-U", "penjing", "-A", "trust", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "start", "-w", "-t", "30", "-D", str(data), "-l", str(log), "-o", options)
        try:
            yield f"postgresql://penjing@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "-D", str(data), "-m", "immediate", "-w", "-t", "30")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_counter = iter(range(10**6))


@pytest.fixture
def postgres_database(postgres: str) -> str:
    """The URL of an empty database in it."""
    import psycopg

    name = f"chats_{os.getpid()}_{next(_counter)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where conversations are kept: each kind of database in turn."""
    if request.param == "sqlite":
        return str(tmp_path / "chats.db")
    found: str = request.getfixturevalue("postgres_database")
    return found


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    opened = Store.open(place, serve=True, patience=30)
    yield opened
    opened.close()
