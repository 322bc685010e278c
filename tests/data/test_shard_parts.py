"""Shards in parts: interrupted anywhere, on any number of workers, the files are the same to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.data import shard_files, shards
from penjing.data.corpus import Document
from penjing.data.shards import Shards
from penjing.errors import DataError

TEXTS = [f"document {i} 从前 " * (i * 7 % 23) for i in range(400)]
"""None of them continues another; where they are cut into tasks is patched to be every few of them."""


class Killed(Exception):
    pass


def entries(last: int | None = None):
    """The texts, some in two pieces; a kill after `last` of them were read."""
    for number, text in enumerate(TEXTS):
        if number == last:
            raise Killed
        if number % 5:
            yield text
        else:
            yield Document(text[:7], continues=True)
            yield Document(text[7:])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "made_of.json"}


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 3)), max_size=4), st.integers(1, 5), st.integers(50, 3000)
)
def test_interrupted_anywhere_the_files_are_the_same(tokenizer, tmp_path_factory, kills, part, file_tokens):
    """Oracle: one writing without interruption, one thread, no parts."""
    root = tmp_path_factory.mktemp("s")
    options = {"file_tokens": file_tokens}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_files, "TASK_CHARACTERS", 900)
        patch.setattr(shard_files, "PART_TASKS", part)
        patch.setattr(os, "fsync", lambda _: None)  # an exception loses nothing, and the disk is slow
        whole = shards.write(entries(), tokenizer, root / "whole", **options)
        for last, workers in kills:
            if last == 400:
                continue
            with pytest.raises(Killed):
                shards.write(entries(last), tokenizer, root / "s", workers=workers, made_of="texts", **options)
            assert not (root / "s").exists()
        made = shards.write(entries(), tokenizer, root / "s", workers=2, made_of="texts", **options)
    assert content(made.folder) == content(whole.folder)
    assert sorted(path.name for path in root.iterdir()) == ["s", "whole"]
    made.verify()


def test_what_is_done_is_not_tokenized_again_and_what_came_after_it_is_cut_off(tokenizer, tmp_path, monkeypatch):
    """Of 20 tasks two parts of eight are whole when the writing breaks off; four tasks are left, and bytes of the
    ninth to the last that were written beyond the parts vanish.
    """
    monkeypatch.setattr(shard_files, "TASK_CHARACTERS", 1)
    monkeypatch.setattr(shard_files, "PART_TASKS", 8)
    texts = [f"text {number}" for number in range(20)]

    def broken():
        yield from texts[:18]
        raise Killed

    with pytest.raises(Killed):
        shards.write(broken(), tokenizer, tmp_path / "s", made_of=1)
    kept = tmp_path / ".s.unfinished"
    assert json.loads((kept / "parts.json").read_text())["read"] == 16
    with (kept / "tokens-00000.bin").open("ab") as file:
        file.write(b"left by a process that was killed")
    encoded = []
    encode = type(tokenizer).encode_array
    monkeypatch.setattr(type(tokenizer), "encode_array", lambda self, text: encoded.append(text) or encode(self, text))
    made = shards.write(texts, tokenizer, tmp_path / "s", made_of=1)
    assert encoded == texts[16:]
    assert [tokenizer.decode(made.document(i)[:-1]) for i in range(20)] == texts


def test_an_unfinished_writing_of_other_text_is_not_gone_on_with(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "TASK_CHARACTERS", 1)
    monkeypatch.setattr(shard_files, "PART_TASKS", 1)
    with pytest.raises(Killed):
        shards.write(entries(9), tokenizer, tmp_path / "s", made_of={"file": "a"})
    with pytest.raises(
        DataError, match=r"\.s\.unfinished holds unfinished shards, and since then .* changed: text; delete"
    ):
        shards.write(entries(), tokenizer, tmp_path / "s", made_of={"file": "b"})
    with pytest.raises(DataError, match="has changed: file_tokens; delete"):
        shards.write(entries(), tokenizer, tmp_path / "s", made_of={"file": "a"}, file_tokens=77)
    (tmp_path / ".s.unfinished" / "ends.bin").write_bytes(b"")
    with pytest.raises(DataError, match="the unfinished shards are damaged; delete this folder"):
        shards.write(entries(), tokenizer, tmp_path / "s", made_of={"file": "a"})


def test_no_text_leaves_nothing_behind(tokenizer, tmp_path):
    with pytest.raises(DataError, match="there is no document to write"):
        shards.write([], tokenizer, tmp_path / "s", made_of=1)
    assert not list(tmp_path.iterdir())


# whole processes


def _command(source: Path, out: Path, folder: Path, *more: str) -> list[str]:
    options = ["--tokenizer", str(folder), "--out", str(out), *more]
    return [sys.executable, "-m", "penjing", "data", "shard", str(source), *options]


@pytest.fixture
def large(tokenizer, tmp_path: Path) -> tuple[Path, Path]:
    """A file of 60 MB, and the folder of a tokenizer."""
    text = tmp_path / "large.txt"
    with text.open("w") as file:
        for number in range(30_000):
            file.write(f"{number} once upon a time 从前有座山 " * 50 + "<|endoftext|>")
    tokenizer.save(tmp_path / "tokenizer")
    return text, tmp_path / "tokenizer"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_the_command_goes_on(large, tmp_path, seed):
    """Three times kill -9 after the first part, then to the end on two processes; oracle: one thread, never killed."""
    text, folder = large
    out = tmp_path / "out"
    randomness = random.Random(seed)
    for _ in range(3):
        process = subprocess.Popen(_command(text, out, folder, "--workers", "1"), stdout=subprocess.DEVNULL)
        while not (tmp_path / ".out.unfinished" / "parts.json").exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(randomness.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(_command(text, out, folder, "--workers", "2", "--processes"), check=True)
    subprocess.run(_command(text, tmp_path / "straight", folder, "--workers", "1"), check=True)
    assert content(out) == content(tmp_path / "straight")
    Shards.open(out).verify()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tokenizer, tmp_path):
    """Peak resident memory of the whole command on 200 MB beside 50 MB: at most 15 MB more (10 % of the difference)."""
    tokenizer.save(tmp_path / "tokenizer")
    peaks = []
    for megabytes in (50, 200):
        text = tmp_path / f"{megabytes}.jsonl"
        with text.open("w") as file:
            line = json.dumps({"text": "once upon a time there was " * 380}) + "\n"
            file.writelines(line for _ in range(megabytes * 1_000_000 // len(line)))
        run = "import resource, sys; from penjing.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        run += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        command = _command(text, tmp_path / f"out-{megabytes}", tmp_path / "tokenizer", "--workers", "2")
        command[1:3] = ["-c", run]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 15, peaks
