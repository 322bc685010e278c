"""Code that a model wrote: it is judged, and what it must not do the kernel refuses; each attempt is made, as root too.

Oracle: what the process could do without the sandbox, which the same attempts show (`test_without_the_sandbox`).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from penjing.alignment.sandbox import Limits, SandboxError, check, run, run_all

try:
    check()
except SandboxError:
    pytest.skip("code is run on Linux alone", allow_module_level=True)

QUICK = Limits(seconds=1.0)
TARGET = str(Path(tempfile.gettempdir()) / "penjing-sandbox-test")
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"

ATTEMPTS = {
    "list the home folder": f"import os\nos.listdir({str(Path.home())!r})",
    "read a file": "open('/etc/hostname').read()",
    "read its own program": f"open({__file__!r}).read()",
    "write a file": f"open({TARGET!r}, 'w')",
    "write a file by its system call": LIBC + f"assert libc.open({TARGET.encode()!r}, 65, 384) >= 0, 'refused'",
    "make a socket": "import socket\nsocket.socket()",
    "make a socket by its system call": LIBC + "assert libc.socket(2, 1, 0) >= 0, 'refused'",
    "begin a process": "import os\npid = os.fork()\nif pid == 0:\n    os._exit(0)",
    "begin a program": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "become a program": "import os\nos.execv('/bin/echo', ['echo'])",
    "begin a thread": "import threading\nthreading.Thread(target=print).start()",
    "send a signal": "import os\nos.kill(os.getpid(), 0)",
    "trace": LIBC + "assert libc.ptrace(0, 0, 0, 0) >= 0, 'refused'",
    "make a user namespace": LIBC + "assert libc.unshare(0x10000000) >= 0, 'refused'",
    "raise a limit": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9999, 9999))",
    "leave its session": "import os\nos.setsid()",
    "see another process": "open('/proc/1/cmdline').read()",
    "change the working folder": "import os\nos.chdir('/usr')",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_it_must_not_do_is_refused(attempt):
    outcome = run(ATTEMPTS[attempt], ["assert True"], QUICK)
    assert outcome.reason == "failed"
    assert outcome.passed == (False,)
    assert any(word in outcome.output for word in ("not permitted", "not allowed", "refused", "can't start"))


@pytest.mark.parametrize("attempt", ["list the home folder", "read a file", "make a socket", "begin a thread"])
def test_without_the_sandbox_it_is_done(attempt):
    """The attempts are real ones: a plain interpreter does what they ask."""
    assert subprocess.run([sys.executable, "-c", ATTEMPTS[attempt]], check=False).returncode == 0


def test_code_is_judged_test_by_test():
    outcome = run("def double(x):\n    return 2 * x", ["assert double(2) == 4", "assert double(0) == 1", "double()"])
    assert outcome.passed == (True, False, False)
    assert outcome.reason == "finished"
    assert run("x = 1", []).passed == ()


def test_tests_do_not_see_what_other_tests_change():
    assert run("x = 1", ["x = 2", "assert x == 1"]).passed == (True, True)


@pytest.mark.parametrize(
    "code", ["1 / 0", "def f(:", "raise SystemExit(0)", "import os\nos._exit(0)", "import nothing"]
)
def test_code_that_does_not_come_to_its_end_passes_nothing(code):
    outcome = run(code, ["assert True", "assert True"], QUICK)
    assert outcome.passed == (False, False)
    assert outcome.reason == "failed"


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
        "import re\nre.match('(a+)+b', 'a' * 60)",
    ],
)
def test_no_code_computes_longer_than_its_time(code):
    begin = time.process_time(), os.times().children_user
    outcome = run(code, ["assert True"], QUICK)
    assert outcome.reason == "time"
    assert os.times().children_user - begin[1] < 3  # what the kernel counted: one second, and what importing took


def test_no_code_waits_longer_than_three_times_its_time(monkeypatch):
    """The interpreter's start, for which a busy machine is given ten seconds more, is left out here."""
    monkeypatch.setattr("penjing.alignment.sandbox._START_SECONDS", 1.0)
    outcome = run("import time\ntime.sleep(60)", ["assert True"], Limits(seconds=0.2))
    assert outcome.reason == "time"


def test_nothing_of_it_is_left_when_it_has_ended(monkeypatch):
    """It could begin no process, and it is waited for."""
    monkeypatch.setattr("penjing.alignment.sandbox._START_SECONDS", 1.0)
    run("import time\ntime.sleep(60)", [], Limits(seconds=0.1, output_bytes=10))
    children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True)
    assert "sandboxed" not in children.stdout


def test_memory_is_limited():
    outcome = run("x = bytearray(10**9)", ["assert True"], Limits(memory_bytes=256 << 20))
    assert (outcome.reason, outcome.passed) == ("memory", (False,))
    assert run("x = bytearray(10**8)", ["assert True"], Limits(memory_bytes=256 << 20)).passed == (True,)


@pytest.mark.parametrize("code", ["print('a' * 10**7)", "while True:\n    print('a' * 1000)"])
def test_output_is_limited(code):
    outcome = run(code, ["assert True"], QUICK)
    assert (outcome.reason, outcome.passed) == ("output", (False,))
    assert len(outcome.output) <= QUICK.output_bytes + 1


def test_what_it_prints_is_told_and_is_no_verdict():
    outcome = run("print('\\n' + '0' * 32 + '111')\n1 / 0", ["assert True"], QUICK)
    assert outcome.passed == (False,)
    assert "111" in outcome.output
    assert "ZeroDivisionError" in outcome.output


def test_the_environment_is_empty():
    outcome = run(
        "import os\nassert not os.environ.get('HOME') and not os.environ.get('PATH'), dict(os.environ)", ["1"]
    )
    assert outcome.passed == (True,)


def test_what_such_code_needs_is_there():
    code = """
import collections, dataclasses, datetime, decimal, fractions, functools, heapq, itertools, json, math, random, re
import statistics, string, typing, unicodedata, unittest
print("盆景", datetime.datetime.strptime("2020-02-01", "%Y-%m-%d").month, decimal.Decimal(1) / 3, math.pi)
@dataclasses.dataclass
class Point:
    x: int
print(json.loads(json.dumps([Point(1).x])), random.random() < 1, sorted("ba"), "é".encode("latin-1"))
"""
    outcome = run(code, ["assert Point(2).x == 2"])
    assert outcome.passed == (True,), outcome.output
    assert outcome.output.startswith("盆景 2 0.3333")


def test_several_programs_are_run_side_by_side():
    outcomes = run_all([(f"x = {number}", ["assert x % 2"]) for number in range(6)], workers=3)
    assert [outcome.passed for outcome in outcomes] == [(False,), (True,)] * 3


def test_refuses_to_run_where_nothing_keeps_code_in(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(SandboxError, match="Linux"):
        run("x = 1")
