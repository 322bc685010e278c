"""What `sandbox` starts: limits itself, has the kernel refuse nearly all calls, and only then runs what it was given.

Run as a program, by a bare interpreter without site-packages: it imports nothing of Penjing's.
"""

import base64
import ctypes
import json
import os
import platform
import resource
import struct
import sys

# imported before the door is shut; what such code needs, and what those modules import when they are first used
PRELOADED = [
    "abc", "array", "base64", "binascii", "bisect", "calendar", "cmath", "collections", "collections.abc",
    "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "encodings.ascii",
    "encodings.idna", "encodings.latin_1", "encodings.utf_16", "enum", "fractions", "functools", "hashlib",
    "heapq", "hmac", "html", "io", "itertools", "json", "json.decoder", "json.encoder", "keyword", "linecache",
    "locale", "math", "numbers", "operator", "pprint", "queue", "random", "re", "reprlib", "secrets",
    "statistics", "string", "stringprep", "struct", "textwrap", "time", "tokenize", "traceback", "types",
    "typing", "unicodedata", "unittest", "unittest.mock", "uuid", "warnings", "zlib", "_strptime",
]  # fmt: skip

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 4, 38, 22
_FILTER = 2

# the calls that are let through, by processor: numbers of x86-64's table, and of the generic one
_CALLS = {
    "x86_64": (0xC000003E, {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
        "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16, "mremap": 25,
        "madvise": 28, "nanosleep": 35, "getpid": 39, "exit": 60, "uname": 63, "gettimeofday": 96, "getrlimit": 97,
        "getrusage": 98, "times": 100, "getuid": 102, "gettid": 186, "time": 201, "futex": 202, "clock_gettime": 228,
        "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "getrandom": 318, "newfstatat": 262,
        "sched_yield": 24, "sigaltstack": 131, "restart_syscall": 219,
    }),
    "aarch64": (0xC00000B7, {
        "read": 63, "write": 64, "close": 57, "fstat": 80, "ppoll": 73, "lseek": 62, "mmap": 222, "mprotect": 226,
        "munmap": 215, "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "ioctl": 29,
        "mremap": 216, "madvise": 233, "nanosleep": 101, "getpid": 172, "exit": 93, "uname": 160, "gettimeofday": 169,
        "getrusage": 165, "times": 153, "getuid": 174, "gettid": 178, "futex": 98, "clock_gettime": 113,
        "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94, "getrandom": 278, "newfstatat": 79,
        "sched_yield": 124, "sigaltstack": 132, "restart_syscall": 128,
    }),
}  # fmt: skip
_REFUSED_AT_ONCE = {"newfstatat", "ioctl"}
"""Known to interpreters, and refused like the rest: named here only so that nobody adds them."""


def main() -> None:
    """Reads the task, shuts the door, runs it, and writes the token and a mark for each test."""
    task = json.loads(base64.b64decode(sys.stdin.buffer.readline()))
    for name in PRELOADED:
        try:
            __import__(name)
        except ImportError:  # an interpreter built without it
            continue
    code, tests, token = task["code"], task["tests"], task["token"]
    fault = _shut(task["memory"], task["seconds"])
    if fault:
        _say(f"\n{token}cannot {fault}")
        return
    _say(f"\n{token}{_run(code, tests)}")


def _run(code: str, tests: "list[str]") -> str:
    """The verdict: a mark for each test."""
    names: dict[str, object] = {"__name__": "__main__"}
    try:
        exec(compile(code, "<answer>", "exec"), names)
    except MemoryError:
        return "memory"
    except BaseException as error:
        print(f"{type(error).__name__}: {error}"[:2000], flush=True)
        return "raised"
    marks = ""
    for test in tests:
        try:
            exec(compile(test, "<test>", "exec"), dict(names))
            marks += "1"
        except BaseException as error:
            print(f"{type(error).__name__}: {error}"[:2000], flush=True)
            marks += "0"
    return marks


def _say(text: str) -> None:
    sys.stdout.flush()
    os.write(1, text.encode())


def _shut(memory: int, seconds: float) -> str:
    """Limits this process for good; what went wrong, or nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    whole = max(1, int(seconds) + (seconds > int(seconds)))
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, _used() + whole),
    ):
        resource.setrlimit(limit, (value, value))
    for option, value in ((_PR_SET_PDEATHSIG, 9), (_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            return f"prctl {option}: error {ctypes.get_errno()}"
    arch, calls = _CALLS[platform.machine()]
    program = _program(arch, sorted(number for name, number in calls.items() if name not in _REFUSED_AT_ONCE))
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.create_string_buffer(header), 0, 0) != 0:
        return f"seccomp: error {ctypes.get_errno()}"
    return ""


def _used() -> int:
    """Whole seconds of processor time that importing took."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int(usage.ru_utime + usage.ru_stime)


def _program(arch: int, allowed: "list[int]") -> bytes:
    """The filter, for the kernel's BPF machine: another architecture is killed, other calls are refused with EPERM."""
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    kill, refuse, allow = 0x80000000, 0x00050000 | 1, 0x7FFF0000
    lines = [(load, 0, 0, 4), (equal, 1, 0, arch), (answer, 0, 0, kill), (load, 0, 0, 0)]
    lines += [(equal, len(allowed) - place, 0, number) for place, number in enumerate(allowed)]
    lines += [(answer, 0, 0, refuse), (answer, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


if __name__ == "__main__":
    main()
