"""What this machine can do, measured: which device to use, and whether bfloat16 is worth it.

bfloat16 halves memory traffic everywhere, but only some processors multiply it quickly: with AVX-512 bf16 or AMX it is
about twice as fast as float32, without them it can be hundreds of times slower. No table of processors is right for
long, so one matrix product of each kind is timed and the faster one is taken.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from penjing.errors import ConfigError, nearest

MARGIN = 1.3
"""bfloat16 must win its matrix product by this factor: conversions around the products eat a part of what it gains."""

PRECISIONS = ("auto", "fp32", "bf16")
_DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Measurement:
    """How fast a device multiplies matrices and, when asked for, reads memory."""

    device: str
    """The device's name for people."""
    fp32_gflops: float
    """Billions of float32 operations a second in a square matrix product."""
    bf16_gflops: float
    """The same in bfloat16; 0 where the device cannot."""

    @property
    def bf16_gain(self) -> float:
        """How many times as fast bfloat16 is."""
        return self.bf16_gflops / self.fp32_gflops


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    kind, colon, index = name.partition(":")
    if kind not in _DEVICES:
        raise ConfigError(f"device is '{name}'{nearest(kind, _DEVICES)}")
    if colon and (kind == "auto" or not (index.isascii() and index.isdigit())):
        raise ConfigError(f"device is '{name}'; write auto, or a kind with or without a number, such as cuda:0")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return torch.device(next(kind for kind, here in available.items() if here))
    if not available[kind]:
        raise ConfigError(f"device is '{name}', but PyTorch finds none here; use device 'auto' or 'cpu'")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if colon and int(index) >= count:
        raise ConfigError(f"device is '{name}', but of {kind} devices there are only {count} here, counted from 0")
    return torch.device(f"{kind}:{int(index)}" if colon else kind)


def choose_precision(name: str, device: torch.device | str) -> tuple[torch.dtype, str]:
    """The dtype to compute in, and why, in a sentence.

    Args:
        name: "fp32", "bf16", or "auto", which measures.
        device: where the work will be done.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision is '{name}'{nearest(name, PRECISIONS)}")
    if name == "fp32":
        return torch.float32, "asked for"
    if name == "bf16":
        return torch.bfloat16, "asked for"
    speed = measure(device)
    if speed.bf16_gflops == 0:
        return torch.float32, f"{speed.device} cannot multiply bfloat16 usefully"
    told = f"a bf16 matrix product is {speed.bf16_gain:.2g} times as fast as an fp32 one here"
    if speed.bf16_gain >= MARGIN:
        return torch.bfloat16, told
    return torch.float32, f"{told}, and {MARGIN} is where bf16 begins to pay"


def measure(device: torch.device | str = "cpu") -> Measurement:
    """Times one matrix product of each kind; the answer is kept for the life of the process (takes about 0.1 s)."""
    return _measure(str(torch.device(device)))


@functools.cache
def _measure(name: str) -> Measurement:
    device = torch.device(name)
    small, large = (256, 1024) if device.type == "cpu" else (512, 4096)
    fp32 = _gflops(device, torch.float32, small)
    try:
        bf16 = _gflops(device, torch.bfloat16, small)
    except RuntimeError:  # no such kernel on this device
        bf16 = 0.0
    # where bf16 is emulated a large product would take minutes, and the small one has already said so
    if bf16 > fp32 / 2:
        for _ in range(2):  # in turns, so that a disturbance does not hit one kind alone
            fp32 = max(fp32, _gflops(device, torch.float32, large))
            bf16 = max(bf16, _gflops(device, torch.bfloat16, large))
    else:
        fp32 = max(fp32, _gflops(device, torch.float32, large))
    return Measurement(device_name(device), fp32, bf16)


def _gflops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    left = torch.ones(size, size, dtype=dtype, device=device)
    right = torch.ones(size, size, dtype=dtype, device=device)
    return 2e-9 * size**3 / _fastest(lambda: left @ right, device, 3)


def read_bandwidth(device: torch.device | str = "cpu", megabytes: int = 128) -> float:
    """Gigabytes a second that a sum over a large tensor reads."""
    values = torch.ones(megabytes * 2**18, device=device)
    return megabytes * 2**20 / 1e9 / _fastest(values.sum, torch.device(device), 5)


def _fastest(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):  # the first warms up
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_name(device: torch.device) -> str:
    """What people call the device: the GPU's or the processor's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (MPS)"
    return _processor_name()


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def physical_cores() -> int:
    """How many whole cores this process may use: its allowance, hyper-threads not counted twice."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def median_seconds(work: Callable[[], object], rounds: int, device: torch.device | str = "cpu") -> float:
    """The median time of `rounds` calls, after one that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        synchronize(torch.device(device))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])
