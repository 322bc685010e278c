"""Where text lies: on this machine, or anywhere that fsspec reaches, from where it is read as it arrives.

    books/                                   a folder, searched as `files_in` does
    books/*.txt    crawl/**/*.jsonl.gz       a pattern; `**` is any number of folders
    hf://datasets/ORG/NAME/data/             files on the Hugging Face Hub
    s3://BUCKET/crawl/*.parquet              objects in S3 (the extra `s3`)
    https://HOST/pg1342.txt.gz               a file on a web server (the extra `http`); with a / at its end, a folder
    memory://  gs://  zip://a.txt::s3://...  and whatever else fsspec knows

Nothing is downloaded whole: a file far away is a stream of blocks, a parquet file there is read in parts. A block that
does not arrive is asked for again before the reading fails.
"""

import glob
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from penjing.errors import DataError, nearest

STAGE_MARK = "stage.json"
"""The file that each stage of `penjing run` has in its folder."""

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+(://|::)")
_EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
_COMMON = ("hf", "s3", "gs", "abfs", "https", "http", "ftp", "sftp", "memory", "file")
_BLOCK = 1 << 20
_WAITS = (0.5, 2.0)
"""Seconds before a block is asked for again."""
_DEEPEST = 32
"""Folders within folders farther away than this are not searched: a web server can have them without end."""
_VERSIONS = ("ETag", "etag", "Content-MD5", "sha256", "blob_id", "mtime", "LastModified", "updated", "created")
"""What file systems call that which changes when a file does."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that fsspec reaches; has what readers use of a `Path`."""

    system: Any
    """The fsspec file system that it is on."""
    path: str
    """Its name there."""
    shown: str
    """Its whole address, for messages."""

    def __str__(self) -> str:
        return self.shown

    @cached_property
    def name(self) -> str:
        """The last part of the path, without an address's query."""
        return PurePosixPath(urlsplit(self.path).path if _is_web(self.path) else self.path).name

    @property
    def suffix(self) -> str:
        """As a `Path` has it."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """As a `Path` has it."""
        return PurePosixPath(self.name).stem

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file's bytes as a stream.

        Raises:
            DataError: here or while reading: it is not there, or cannot be reached.
        """
        assert mode == "rb"
        with _understood(self.shown):
            file = self.system.open(self.path, "rb")
        return io.BufferedReader(_Blocks(file, self.shown), _BLOCK)


File = Path | RemoteFile


def is_remote(source: str | Path) -> bool:
    """Whether a source is an address, such as `s3://bucket/file`, and no path on this machine."""
    return isinstance(source, str) and _REMOTE.match(source) is not None


def is_there(source: str | Path) -> bool:
    """Whether there is such a file or folder here, or a file that the pattern matches; addresses are not looked up.

    Raises:
        DataError: an address is of no known kind, or its package is missing.
    """
    if is_remote(source):
        _system(str(source))
        return True
    return os.path.exists(source) or bool(_matches(str(source)))


def files_at(source: str | Path, known: Callable[[File], bool], kinds: str) -> list[File]:
    """The files that a source names: itself, or the `known` ones in a folder or of a pattern, always in one order.

    Args:
        source: a path, a pattern or an address.
        known: which files are worth reading; a file that is named itself is not asked about.
        kinds: what those are, for the error that there is none.

    Raises:
        DataError: there is no such file or folder, nothing known in it, or the place cannot be reached.
    """
    found = _remote_files(str(source)) if is_remote(source) else _local_files(source)
    if found is None:
        return [_remote_file(str(source)) if is_remote(source) else Path(source)]
    files = [file for file in found if known(file)]
    if not files:
        raise DataError(f"there is no file to read in {source}; known kinds: {kinds}")
    return files


def identity(source: str | Path) -> list[Any]:
    """What tells one text from another without reading it: each file's name, size and time or mark of change.

    Raises:
        DataError: it is not there, or cannot be reached.
    """
    if is_remote(source):
        files = _remote_files(str(source)) or [_remote_file(str(source))]
        return [_remote_identity(cast(RemoteFile, file)) for file in files]
    try:
        local = _local_files(source)
        files = [Path(source)] if local is None else local
        return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in cast(list[Path], files)]
    except OSError as fault:
        raise DataError(f"{fault.filename} cannot be read: {fault.strerror}") from None


def files_in(folder: Path) -> Iterator[Path]:
    """The files in a folder and the folders in it, in the same order on every machine.

    Left out are hidden files and folders, and what `penjing run` made: a folder in it that is a run's, or a stage's.
    So a run can train on the folder that it lies in.
    """
    for place, folders, files in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        stages = [name for name in folders if os.path.isfile(os.path.join(place, name, STAGE_MARK))]
        if stages and Path(place) != Path(folder):
            folders.clear()  # a run's folder
            continue
        folders[:] = [name for name in folders if name not in stages]
        yield from (Path(place) / name for name in sorted(files) if not name.startswith("."))


def _unreadable(fault: OSError) -> None:
    raise DataError(f"{fault.filename} cannot be read: {fault.strerror}")


# here


def _local_files(source: str | Path) -> list[File] | None:
    """The files of a folder or a pattern; None for a single file."""
    path = Path(source)
    if path.is_dir():
        return list(files_in(path))
    if path.exists():
        return None
    matches = _matches(str(source))
    if not matches:
        what = "file that matches" if glob.has_magic(str(source)) else "file or folder"
        raise DataError(f"there is no {what} {source}")
    return [*matches]


def _matches(pattern: str) -> list[Path]:
    if not glob.has_magic(pattern):
        return []
    found = (Path(match) for match in glob.glob(pattern, recursive=True))
    return sorted((path for path in found if path.is_file()), key=_files_first)


def _files_first(path: Path | PurePosixPath) -> list[tuple[bool, str]]:
    """The order of `files_in`: at each level the files by name, then the folders."""
    parts = path.parts
    return [(place < len(parts) - 1, part) for place, part in enumerate(parts)]


# far away


def _remote_files(source: str) -> list[File] | None:
    """The files of a folder or a pattern; None for a single file."""
    system, path = _system(source)
    web = _is_web(path)
    with _understood(source):
        if "*" in path or (not web and glob.has_magic(path) and not system.exists(path)):
            root = re.split(r"[*?\[]", path)[0].rpartition("/")[0]
            found = [name for name, facts in system.glob(path, detail=True).items() if facts["type"] == "file"]
        elif source.endswith("/") if web else system.isdir(path):
            system.ls(path, detail=False)  # `find` would take a place that cannot be reached for an empty one
            root, found = path.rstrip("/"), system.find(path, maxdepth=_DEEPEST)
        else:
            return None
    paths = [PurePosixPath(name[len(root) :].lstrip("/")) for name in found]
    ordered = sorted(zip(paths, found, strict=True), key=lambda pair: _files_first(pair[0]))
    shown = [name for parts, name in ordered if not any(part.startswith(".") for part in parts.parts)]
    if not shown:
        raise DataError(f"there is no file in {source}")
    return [RemoteFile(system, name, system.unstrip_protocol(name)) for name in shown]


def _remote_file(source: str) -> RemoteFile:
    return RemoteFile(*_system(source), source)


def _remote_identity(file: RemoteFile) -> list[Any]:
    with _understood(file.shown):
        facts = file.system.info(file.path)
    return [file.shown, facts.get("size"), *(str(facts[name]) for name in _VERSIONS if facts.get(name))]


def _system(source: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path there."""
    import fsspec

    protocol = re.split("://|::", source)[0]
    try:
        system, path = fsspec.core.url_to_fs(source)
    except ImportError as fault:
        extra = _EXTRAS.get(protocol)
        how = f"pip install penjing[{extra}]" if extra else str(fault)
        raise DataError(f"{source}: {protocol}:// needs a package that is missing: {how}") from None
    except ValueError as fault:
        if protocol not in fsspec.available_protocols():
            raise DataError(
                f"{source}: there is no kind of place '{protocol}://'{nearest(protocol, _COMMON)}"
            ) from None
        raise DataError(f"{source}: no address that can be read ({fault})") from None
    except Exception as fault:
        raise _unreachable(source, fault) from fault
    return system, path


def _is_web(path: str) -> bool:
    return path.startswith(("http://", "https://"))


@contextmanager
def _understood(source: str) -> Iterator[None]:
    """Makes a `DataError` of whatever the packages behind fsspec raise: each has errors of its own."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as fault:
        cause = fault.__cause__  # fsspec says of a web server that does not answer, too, that the file is not found
        absent = isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) == 404
        if isinstance(cause, Exception) and not absent:
            raise _unreachable(source, cause) from fault
        raise DataError(f"there is no file or folder {source}") from None
    except Exception as fault:
        raise _unreachable(source, fault) from fault


def _unreachable(source: str, fault: Exception) -> DataError:
    lines = str(fault).strip().splitlines()
    reason = f"{type(fault).__name__}: {lines[0]}" if lines else type(fault).__name__
    return DataError(f"{source} cannot be read ({reason}); check the address, the network and your access to it")


class _Blocks(io.RawIOBase):
    """A file of fsspec's as a raw stream whose faults are `DataError`s, and that ends only where the file does."""

    def __init__(self, file: Any, shown: str):
        self._file = file
        self._shown = shown
        self._at = 0
        self._size: int | None = getattr(file, "size", None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._size is not None and bool(self._file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _understood(self._shown):
            self._at = self._file.seek(offset, whence)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        if not data and self._size is not None and self._at < self._size and len(buffer):
            raise DataError(f"{self._shown}: cut short after {self._at:,} of {self._size:,} bytes")
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _read(self, count: int) -> bytes:
        for wait in _WAITS if self.seekable() else ():
            try:
                return bytes(self._file.read(count))
            except (FileNotFoundError, PermissionError):
                break
            except Exception:
                time.sleep(wait)
                with _understood(self._shown):
                    self._file.seek(self._at)
        with _understood(self._shown):
            return bytes(self._file.read(count))
