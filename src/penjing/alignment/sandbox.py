r"""Runs Python that a model wrote, so that tests can judge it.

    run("def double(x):\n    return 2 * x", ["assert double(2) == 4", "assert double(0) == 1"])
    Outcome(passed=(True, False), reason="finished", output="")

The code runs in a process of its own with an empty environment, in which, before the first line of it,

    memory, processor time, files and processes are limited (`setrlimit`), and nothing can undo that;
    the kernel refuses every system call that is not on a short list (seccomp, through `prctl`, which takes no root):
        reading and writing what is open already, memory, time, ending. So no file can be opened, whatever its path,
        no socket made, no process or thread begun, no signal sent, no program started;
    what is open is an empty input and two pipes, of which the parent reads no more than `output_bytes`;
    the standard library's modules that such code needs are imported already, for their files are out of reach, too.

The parent ends the process when its time is over, and the process ends when the parent does.

What it does not protect against. The tests run in the same process as the code, so a program that is out to cheat
them can: by an object that is equal to everything, by reading what the tests expect from the frames above it. Rewards
from tests should be looked at as any reward should. The list of calls keeps out whoever has not found a fault in the
kernel's few remaining calls or in the processor. Two programs on one machine can tell each other things by how much
they compute. It works on Linux, on x86-64 and ARM64; elsewhere it refuses.

Source: the kernel's documentation, "Seccomp BPF (SECure COMPuting with filters)"; seccomp(2), prctl(2), setrlimit(2).
"""

import base64
import json
import platform
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Literal

from penjing.errors import PenjingError

_INNER = Path(__file__).with_name("sandboxed.py")
_START_SECONDS = 10.0
"""For the interpreter to begin and import, which is not the code's time; a busy machine takes long."""


class SandboxError(PenjingError):
    """Code cannot be run here."""


@dataclass(frozen=True)
class Limits:
    """What code may use."""

    seconds: float = 2.0
    """Of processor time; and of waiting, three times as much."""
    memory_bytes: int = 512 << 20
    """Of address space, the interpreter's own included."""
    output_bytes: int = 1 << 16
    """Of what it prints; more ends it."""


@dataclass(frozen=True)
class Outcome:
    """How it went."""

    passed: tuple[bool, ...]
    """Test by test; none has passed where the code did not come to its end."""
    reason: Literal["finished", "time", "memory", "output", "failed"]
    """Why it ended; "failed": the code raised an exception or ended its process."""
    output: str
    """What it printed, and what was raised."""


def run(code: str, tests: Sequence[str] = (), limits: Limits | None = None) -> Outcome:
    """Runs the code, then each test with what the code defined; a test passes that raises nothing.

    Raises:
        SandboxError: this system cannot keep the code in.
    """
    limits = limits or Limits()
    check()
    token = secrets.token_hex(16)  # tells the runner's word from what the code prints
    task = json.dumps({"code": code, "tests": list(tests), "token": token, "memory": limits.memory_bytes,
                       "seconds": limits.seconds})  # fmt: skip
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_INNER)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={},
        cwd="/",
        start_new_session=True,
    )
    late = _Alarm(process, _START_SECONDS + 3 * limits.seconds)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(base64.b64encode(task.encode()) + b"\n")
            process.stdin.close()
        said = process.stdout.read(limits.output_bytes + 1)  # until it ends, or has said too much
        too_much = len(said) > limits.output_bytes
        if too_much:
            process.kill()
        status = process.wait()
    finally:
        late.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
    return _outcome(said.decode("utf-8", "replace"), status, token, len(tests), too_much, late.rang)


def run_all(
    tasks: Sequence[tuple[str, Sequence[str]]], limits: Limits | None = None, workers: int = 2
) -> list[Outcome]:
    """Several programs with their tests, `workers` at once."""
    check()
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda task: run(task[0], task[1], limits), tasks))


def check() -> None:
    """Looks whether code can be run here.

    Raises:
        SandboxError: it cannot.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise SandboxError(
            "code that a model wrote is run on Linux on x86-64 or ARM64 alone, where the kernel can keep it in: "
            "use another reward here"
        )


class _Alarm:
    """Ends a process when its time is over."""

    def __init__(self, process: "subprocess.Popen[bytes]", seconds: float):
        self.rang = False
        self._process = process
        self._timer = Timer(seconds, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        self.rang = True
        self._process.kill()

    def cancel(self) -> None:
        self._timer.cancel()


def _outcome(said: str, status: int, token: str, tests: int, too_much: bool, late: bool) -> Outcome:
    output, found, verdict = said.partition(f"\n{token}")
    none = (False,) * tests
    if too_much:
        return Outcome(none, "output", output)
    if late or status in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
        return Outcome(none, "time", output)
    if verdict.startswith("cannot"):
        raise SandboxError(f"the kernel does not let code be kept in: {verdict.removeprefix('cannot').strip()}")
    if not found or status != 0:
        return Outcome(none, "failed", output)
    if verdict.startswith("memory"):
        return Outcome(none, "memory", output)
    marks = verdict.strip()
    if len(marks) != tests or set(marks) - set("01"):
        return Outcome(none, "failed", output)
    return Outcome(tuple(mark == "1" for mark in marks), "finished", output)
