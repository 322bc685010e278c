"""`penjing doctor`: what this machine can do, and what Penjing will choose on it."""

from typing import Annotated, Any

import typer


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
    compile_loops: Annotated[
        bool,
        typer.Option("--compile", help="Compile the inner loops now, so that no run has to; a minute or two, once."),
    ] = False,
) -> None:
    """Measures this machine: device, cores, memory, disk, speed in fp32 and bf16, and what will be chosen and why.

    \b
    Examples:
      $ penjing doctor
      $ penjing doctor --json
      $ penjing doctor --compile
    """
    import json as json_format

    from rich.console import Console

    if compile_loops:
        compile_all()
        return

    facts = examine()
    if json:
        typer.echo(json_format.dumps(facts, indent=2, ensure_ascii=False))
        return
    console = Console()
    for section in ("machine", "software", "speed", "choices"):
        console.print(f"[bold]{section}[/bold]")
        for name, value in facts[section].items():
            console.print(f"  {_label(name):<18}{_show(name, value)}", highlight=False, markup=False, soft_wrap=True)
    for advice in facts["advice"]:
        console.print(f"• {advice}", highlight=False, markup=False, soft_wrap=True)


def compile_all() -> None:
    """Runs the default recipe on next to nothing: whatever it compiles at its first use lies on disk afterwards."""
    import io
    import tempfile
    from pathlib import Path

    from rich.console import Console

    from penjing.recipe import Recipe, run_stages
    from penjing.stages import KINDS

    small = [
        *(f"world.{name}=300" for name in ("documents", "dialogues")),
        "world.validation=20",
        "tokenizer.vocab=512",
    ]
    small += ["pretrain.training.steps=2", "pretrain.validation_tokens=2000", "chat.training.steps=2"]
    small += ["chat.validation=20", "evaluate.items=1", "evaluate.base_items=1"]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.read("tiny-chat", KINDS, small)
        run_stages(recipe, Path(folder), None, Console(file=io.StringIO()))


def examine() -> dict[str, Any]:
    """What `penjing doctor --json` prints: machine, software, speed, choices and advice."""
    import platform
    import shutil

    import psutil
    import torch

    from penjing import __version__
    from penjing.device import choose_device, choose_precision, device_name, measure, physical_cores, read_bandwidth

    device = choose_device("auto")
    dtype, reason = choose_precision("auto", device)
    speed = measure(device)
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(".")
    machine: dict[str, Any] = {
        "processor": device_name(torch.device("cpu")),
        "physical_cores": physical_cores(),
        "threads_used": torch.get_num_threads(),
        "memory_gib": round(memory.total / 2**30, 1),
        "memory_free_gib": round(memory.available / 2**30, 1),
        "disk_free_gib": round(disk.free / 2**30, 1),
    }
    if device.type == "cuda":
        machine["gpu"] = device_name(device)
        machine["gpu_memory_gib"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    return {
        "machine": machine,
        "software": {
            "penjing": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "system": f"{platform.system()} {platform.release()}",
        },
        "speed": {
            "fp32_gflops": round(speed.fp32_gflops, 1),
            "bf16_gflops": round(speed.bf16_gflops, 1),
            "memory_read_gb_per_s": round(read_bandwidth(device), 1),
        },
        "choices": {
            "device": device.type,
            "precision": "bf16" if dtype == torch.bfloat16 else "fp32",
            "because": reason,
        },
        "advice": _advice(machine, speed.fp32_gflops, device.type),
    }


def _advice(machine: dict[str, Any], fp32_gflops: float, device: str) -> list[str]:
    advice = []
    cores, threads = machine["physical_cores"], machine["threads_used"]
    if threads > cores:
        advice.append(
            f"{threads} threads share {cores} cores, which slows matrix products: set OMP_NUM_THREADS={cores}"
        )
    if threads < cores:
        advice.append(f"only {threads} of {cores} cores are used: unset OMP_NUM_THREADS, or set it to {cores}")
    if machine["memory_free_gib"] < 2:
        advice.append("less than 2 GiB of memory are free: close other programs, or train with a smaller batch")
    if machine["disk_free_gib"] < 2:
        advice.append("less than 2 GiB of disk are free: checkpoints may not fit")
    if device == "cpu" and fp32_gflops / cores < 20:
        advice.append(
            f"{fp32_gflops:.0f} GFLOP/s is little for {cores} cores: is another program running, "
            "or the processor throttled?"
        )
    return advice or ["nothing stands in the way: try `penjing run tiny-chat`"]


_UNITS = {"_gib": "GiB", "_gflops": "GFLOP/s", "_gb_per_s": "GB/s"}


def _unit(name: str) -> str:
    return next((suffix for suffix in _UNITS if name.endswith(suffix)), "")


def _label(name: str) -> str:
    return name.removesuffix(_unit(name)).replace("_", " ")


def _show(name: str, value: Any) -> str:
    return f"{value:,} {_UNITS.get(_unit(name), '')}".rstrip() if isinstance(value, int | float) else str(value)
