"""Files that appear whole or not at all: write beside, fsync, rename.

A reader never sees half a file, and a crash or a full disk leaves what was there before untouched.

What is being written lies beside, as `.NAME.xxxxxxxx.partial`. One rename puts a file in the place of an older one.
A folder takes two, with the older one as `.NAME.xxxxxxxx.old` between them: a process killed just there leaves no
folder of that name, until the next `atomic_folder` of that name, or `tidy`, puts the older one back.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penjing.errors import PenjingError

_LEFT = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.(?P<kind>partial|old)")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to disk and takes `path`'s name.

    Raises:
        PenjingError: the disk is full or the folder cannot be written; `path` is then as it was before.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success its files are flushed and it takes `path`'s name.

    An older folder of that name is replaced only once the new one is whole. One that a killed process moved away and
    did not replace is put back first.

    Raises:
        PenjingError: the disk is full or the place cannot be written, or `path` is a file; it is then as it was before.
    """
    if path.exists() and not path.is_dir():
        raise PenjingError(f"{path} is a file, where a folder is to be written; name another place")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tidy(path.parent, path.name, "old")
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            try:
                path.replace(old / path.name)
                temporary.replace(path)
            finally:
                if not path.exists():
                    (old / path.name).replace(path)
                shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def tidy(folder: Path, name: str = "", kind: str = "") -> None:
    """Clears a folder of what killed processes left in it: what was half-written goes, what was moved away comes back.

    Only for a folder that no one is writing into.

    Args:
        folder: where to look.
        name: only what belongs to the file or folder of this name.
        kind: only "partial" or "old" things.
    """
    for left in list(folder.glob(".*")):
        found = _LEFT.fullmatch(left.name)
        if found is None or (name and found["name"] != name) or (kind and found["kind"] != kind):
            continue
        place = folder / found["name"]
        if found["kind"] == "old" and not place.exists() and (left / place.name).exists():
            (left / place.name).replace(place)
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented UTF-8 JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, error: type[PenjingError] = PenjingError) -> Any:
    """The value in a JSON file.

    Raises:
        PenjingError: of the type `error`, when the file is missing, unreadable or not JSON; it names the file and line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"there is no file {path}") from None
    except json.JSONDecodeError as fault:
        raise error(f"{path}, line {fault.lineno}: not valid JSON ({fault.msg})") from None
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 text (byte {fault.start})") from None
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror}") from None


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder to flush it
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_error(path: Path, error: OSError) -> PenjingError:
    return PenjingError(f"{path} could not be written: {error.strerror or error}; what was there before is untouched")
