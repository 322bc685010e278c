"""Places: text far away gives the documents that it gives here; what cannot be reached is said.

Oracles: the same files read from the local disk. Far away means fsspec's memory file system, and a web server on this
machine's own address.
"""

import gzip
import http.server
import importlib
import io
import json
import re
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from penjing.data import conversations, places
from penjing.data.corpus import Corpus, documents
from penjing.errors import DataError

TEXTS = [f"document {number}: {'从前有座山 once upon a time ' * (number % 7)}" for number in range(300)]
JSONL = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
TXT = "<|endoftext|>".join(TEXTS).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every kind of file, compressed and not, in folders, with things that are no text."""
    place = tmp_path / "books"
    (place / "b" / "deep").mkdir(parents=True)
    (place / ".hidden").mkdir()
    contents = {
        "z.txt": TXT,
        "a.txt.gz": gzip.compress(TXT),
        "b.jsonl.zst": zstandard.compress(JSONL),
        "b/one.json": json.dumps([{"text": text} for text in TEXTS]).encode(),
        "b/deep/web.jsonl": JSONL,
        ".hidden/no.txt": b"no",
        "picture.png": b"\x89PNG",
    }
    for name, content in contents.items():
        (place / name).write_bytes(content)
    parquet.write_table(pyarrow.table({"text": TEXTS, "other": TEXTS}), place / "t.parquet", row_group_size=40)
    return place


@pytest.fixture
def memory(folder: Path) -> Iterator[str]:
    """The folder in fsspec's memory."""
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/far/books", recursive=True)
    yield "memory://far/books"
    system.rm("/far", recursive=True)


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and parts of files where it is asked for them."""

    ranges = True
    broken = 0
    """How many answers are cut short from now on."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        if self.ranges:
            super().do_HEAD()
        else:
            self.send_error(405)

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir() or not path.exists():
            super().do_GET()
            return
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.ranges else None
        start, stop = 0, len(content)
        if asked:
            start, stop = int(asked[1]), min(int(asked[2] or stop - 1) + 1, stop)
        self.send_response(206 if asked else 200)
        if self.ranges:
            self.send_header("Content-Length", str(stop - start))
        else:
            self.close_connection = True
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        part = content[start:stop]
        if type(self).broken > 0 and len(part) > 1000:
            type(self).broken -= 1
            part = part[: len(part) // 2]
            self.close_connection = True
        self.wfile.write(part)

    def end_headers(self) -> None:
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


@pytest.fixture
def web(folder: Path) -> Iterator[tuple[str, type[_Server]]]:
    """The folder on a web server on the loopback address."""
    handler = type("Handler", (_Server,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()


def texts(source: object, **options: object) -> list[str]:
    return [document.text for document in documents(source, **options)]


NAMES = ("z.txt", "a.txt.gz", "b.jsonl.zst", "b/one.json", "b/deep/web.jsonl", "t.parquet")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_in_memory_is_what_it_is_here(folder, memory, name):
    here, far = list(documents(folder / name)), list(documents(f"{memory}/{name}"))
    assert [document.text for document in far] == TEXTS
    assert [d.origin.replace(memory, str(folder)) for d in far] == [d.origin for d in here]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_on_a_web_server_is_what_it_is_here(web, name, ranges):
    """Also from a server that tells no sizes and sends no parts of files; parquet needs them."""
    address, server = web
    server.ranges = ranges
    if name.endswith(".parquet") and not ranges:
        with pytest.raises(DataError, match="sends files only whole, and parquet is read in parts: download it"):
            texts(f"{address}/{name}")
        return
    assert texts(f"{address}/{name}?download=true") == TEXTS


def test_folders_and_patterns_are_read_in_the_order_of_the_local_ones(folder, memory, web):
    """All known files of a folder, hidden ones left out; patterns with one star and with two."""
    address = web[0]
    assert len(texts(folder)) == 6 * len(TEXTS)
    assert texts(memory) == texts(f"{memory}/") == texts(f"{address}/") == texts(folder)
    for pattern in ("*.txt*", "**/*.json*", "b/*", "[az].*"):
        here = [str(file.relative_to(folder)) for file in places.files_at(f"{folder}/{pattern}", lambda _: True, "")]
        far = [
            str(file)[len("memory:///far/books/") :]
            for file in places.files_at(f"{memory}/{pattern}", lambda _: True, "")
        ]
        assert far == here, pattern
        assert here
    assert texts(f"{folder}/*.txt*") == texts(f"{memory}/*.txt*") == TEXTS * 2
    assert texts(str(folder / "b" / "**" / "*.jsonl")) == TEXTS


def test_both_sides_of_a_split_are_those_of_the_local_text(folder, memory):
    here, far = Corpus(folder).split(0.2, 3), Corpus(memory).split(0.2, 3)
    for one, other in zip(here, far, strict=True):
        assert [d.text for d in one] == [d.text for d in other]


def test_reading_begins_before_all_has_arrived(tmp_path, web):
    """Of a file of 20 MB the first document costs no more than a few blocks."""
    (tmp_path / "books" / "large.jsonl").write_bytes(JSONL * (20_000_000 // len(JSONL)))
    address, server = web
    sent = []
    answer = server.send_header

    def note(self: _Server, name: str, value: str) -> None:
        if name == "Content-Length" and self.command == "GET":
            sent.append(int(value))
        answer(self, name, value)

    server.send_header = note
    assert next(documents(f"{address}/large.jsonl")).text == TEXTS[0]
    assert 0 < sum(sent) < 12e6 < (tmp_path / "books" / "large.jsonl").stat().st_size


def test_a_block_that_does_not_arrive_is_asked_for_again(web, monkeypatch):
    monkeypatch.setattr(places, "_WAITS", (0.0, 0.0))
    address, server = web
    server.broken = 1
    assert texts(f"{address}/z.txt") == TEXTS
    assert server.broken == 0
    server.broken = 1000
    with pytest.raises(DataError, match=r"z\.txt cannot be read \(.*check the address, the network"):
        texts(f"{address}/z.txt")


def test_a_stream_that_ends_too_soon_is_no_end_of_the_file():
    class Short(io.BytesIO):
        size = 15

    with pytest.raises(DataError, match="it: cut short after 10 of 15 bytes"):
        io.BufferedReader(places._Blocks(Short(b"0123456789"), "it")).read()


def test_conversations_may_lie_far_away(tmp_path, memory):
    turns = {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}
    with fsspec.open("memory://far/talk/a.jsonl", "w") as file:
        file.write(json.dumps(turns) + "\n")
    (found,) = conversations.read("memory://far/talk/")
    assert [message["content"] for message in found.messages] == ["1", "2"]


def test_what_tells_far_text_from_other_text_changes_with_it(memory, web, folder):
    for source, file in ((memory, "memory://far/books/z.txt"), (f"{web[0]}/z.txt", str(folder / "z.txt"))):
        before = places.identity(source)
        assert places.identity(source) == before
        with fsspec.open(file, "wb") as target:
            target.write(b"other")
        assert places.identity(source) != before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s4u://bucket/a.txt", r"no kind of place 's4u://'; known: .*\bs3\b"),
        ("htps://host/a.txt", r"no kind of place 'htps://'; did you mean 'https'"),
        ("memory://nowhere/a.txt", "there is no file or folder memory://nowhere/a.txt"),
        ("memory://nowhere/*.txt", r"there is no file in memory://nowhere/\*.txt"),
        ("memory://far/books/picture.png", "unknown kind of file '.png'"),
        ("memory://far/pictures", "no file to read in memory"),
        ("http://127.0.0.1:9/a.txt", r"http://127.0.0.1:9/a.txt cannot be read .*check the address, the network"),
        ("http://127.0.0.1:9/", r"http://127.0.0.1:9/ cannot be read"),
        ("{web}/none.txt", "there is no file or folder http://.*none.txt"),
        ("{folder}/*.docx", r"there is no file that matches .*\*.docx"),
        ("{folder}/*.png", r"no file to read in .*\*.png; known kinds: .txt"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(memory, web, folder, source, message, monkeypatch):
    monkeypatch.setattr(places, "_WAITS", (0.0,))
    with fsspec.open("memory://far/pictures/only.bin", "wb") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=message):
        texts(source.format(web=web[0], folder=folder))


@pytest.mark.parametrize(
    ("package", "source", "extra"), [("s3fs", "s3://b/a.txt", "s3"), ("aiohttp", "https://h/a.txt", "http")]
)
def test_a_missing_package_is_named(monkeypatch, package, source, extra):
    for name in [name for name in sys.modules if name.startswith(("s3fs", "fsspec.implementations.http"))]:
        monkeypatch.delitem(sys.modules, name)
    for protocol in ("s3", "https"):
        monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, protocol, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"needs a package that is missing: pip install penjing\[{extra}\]"):
        texts(source)
