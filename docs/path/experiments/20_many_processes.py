"""One model, twenty steps, two processes in five ways: the same losses, and what each way sends and holds."""

import os
import socket
from argparse import Namespace
from typing import Any

import torch
import torch.multiprocessing as mp
from common import arguments, both_sides, llama, loader, table
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.utils._python_dispatch import TorchDispatchMode

from penjing.data.batch import TokenBatch
from penjing.models.language_model import LanguageModel
from penjing.training.adamw import AdamW
from penjing.training.distributed.engine import DistributedEngine
from penjing.training.distributed.mesh import Mesh, Parallel
from penjing.training.distributed.pipeline import rows_of
from penjing.training.distributed.team import together
from penjing.training.engine import Engine
from penjing.training.objectives import next_token
from penjing.training.plots import Curve, Plot
from penjing.training.weights import local

WAYS = ("data", "shard", "tensor", "pipeline", "context")
OPTIMIZER = AdamW.Config(learning_rate=3e-3)
PROCESSES, BATCH, CONTEXT, WIDTH, LAYERS = 2, 8, 128, 64, 4
NUMBER = 4  # bytes of a float32


class Sent(TorchDispatchMode):
    """Counts the bytes that this process sends within it, where collectives go round in a ring."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.bytes += _sent(func.overloadpacket.__name__, args)
        return func(*args, **(kwargs or {}))


def _sent(name: str, args: Any) -> float:
    """In a ring of n, gathering and scattering send (n-1)/n of the whole, and an all-reduce does both."""
    if name == "send":
        return _size(args[0][0])
    if name == "_allgather_base_":
        return _size(args[0]) - _size(args[1])
    if name == "_reduce_scatter_base_":
        return _size(args[1]) - _size(args[0])
    if name == "all_gather_into_tensor":
        return _size(args[0]) * (args[1] - 1)
    if name == "reduce_scatter_tensor":
        return _size(args[0]) * (args[2] - 1) / args[2]
    if name == "all_reduce":
        n = (_resolve_process_group(args[2]) if isinstance(args[2], str) else args[2]).size()
        return 2 * _size(args[0]) * (n - 1) / n
    if name == "allreduce_":
        n = ProcessGroup.unbox(args[1]).size()
        return 2 * sum(map(_size, args[0])) * (n - 1) / n
    if name in ("recv_", "wait_tensor", "_wrap_tensor_autograd"):
        return 0
    raise NotImplementedError(f"how much does {name} send?")


def _size(x: Tensor) -> int:
    return x.numel() * x.element_size()


def formulas(model: LanguageModel, tokens: int) -> dict[str, float]:
    """Bytes that a process sends in a step, by the chapter's equations; `tokens` are those of the whole batch."""
    n, whole = PROCESSES, NUMBER * sum(p.numel() for p in model.parameters())
    ends = NUMBER * sum(p.numel() for name, p in model.named_parameters() if not name.startswith("blocks"))
    part, stream = (n - 1) / n, NUMBER * tokens * WIDTH
    pair = 2 * stream / n
    return {
        "data": 2 * part * whole,
        "shard": part * (3 * (whole - ends) + 2 * ends),
        "tensor": part * stream * (8 * LAYERS + 4),
        "pipeline": stream + 2 * part * ends,
        "context": (3 * n - 2) * pair * LAYERS + part * (3 * (whole - ends) + 2 * ends),
    }


def model_of(vocab: int) -> LanguageModel:
    """The same weights on every process."""
    model = llama(vocab, CONTEXT, WIDTH, LAYERS)
    model.initialise(torch.Generator().manual_seed(1))
    return model


def steps(engine: Engine, batches: list[TokenBatch]) -> list[float]:
    """The loss of each step."""
    return [float(engine.step([batch]).read()[0]) for batch in batches]


def held(engine: Engine) -> int:
    """Bytes of weights and optimizer on this process."""
    weights = engine.weights.trained.values()
    kept = [x for weight in weights for x in (weight, *engine.optimizer.state[weight].values())]
    return sum(_size(local(x)) for x in kept if isinstance(x, Tensor))


def work(rank: int, port: int, batches: list[TokenBatch], vocab: int, say: Any) -> None:
    """What one of the processes does: every way, from the same start on the same batches."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    os.environ.update({name: str(value) for name, value in {**where, "MASTER_PORT": port}.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    with together(Parallel(data=PROCESSES), "chapter 20"):
        for way in WAYS:
            mesh = Mesh(Parallel(**{way: PROCESSES}))
            engine = DistributedEngine(model_of(vocab), next_token, OPTIMIZER, mesh)
            mine = [rows_of(batch, mesh.rows)[mesh.row] for batch in batches]
            losses = steps(engine, mine[:-1])  # the first one also agrees on names and shapes, so it is not counted
            with Sent() as sent:
                losses += steps(engine, mine[-1:])
            say.put((way, rank, losses, sent.bytes, held(engine)))


def together_found(batches: list[TokenBatch], vocab: int) -> dict[str, list[Any]]:
    """Starts the processes; for each way, what each of them says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = mp.get_context("spawn").SimpleQueue()
    mp.spawn(work, (port, batches, vocab, said), nprocs=PROCESSES)  # an error in one of them is raised here
    found: dict[str, list[Any]] = {way: [] for way in WAYS}
    while not said.empty():
        way, *numbers = said.get()
        found[way].append(numbers)
    return found


def run(args: Namespace) -> None:
    """All ways and the process alone; prints the table and draws the plot."""
    tokenizer, learn, _ = both_sides(args, 1, CONTEXT, BATCH)
    stream = loader(learn, BATCH, CONTEXT)
    batches = [next(stream) for _ in range(args.steps)]
    model = model_of(tokenizer.vocab_size)
    alone = Engine(model, next_token, OPTIMIZER)
    expected = steps(alone, batches)
    found = together_found(batches, tokenizer.vocab_size)
    predicted = formulas(model, BATCH * CONTEXT)
    rows: list[list[str]] = [["one process", f"{expected[-1]:.6f}", "", "0", "0", f"{held(alone) / 1e3:.0f}"]]
    curves = []
    for way, ends in found.items():
        _, losses, *_ = ends[0]
        differences = [abs(mine - right) for mine, right in zip(losses, expected, strict=True)]
        sent, memory = (max(numbers) for numbers in list(zip(*ends, strict=True))[2:])
        rows.append(
            [
                f"{way} {PROCESSES}",
                f"{losses[-1]:.6f}",
                f"{max(differences):.0e}",
                f"{sent / 1e3:.0f}",
                f"{predicted[way] / 1e3:.0f}",
                f"{memory / 1e3:.0f}",
            ]
        )
        curves.append(Curve(f"{way} {PROCESSES}", range(1, len(losses) + 1), [1e6 * d for d in differences]))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {BATCH * CONTEXT:,} tokens a step")
    table(["", "last loss", "largest difference", "kB sent a step", "by formula", "kB held"], rows)
    title = "How far the losses are from one process's"
    Plot(title, "step", "millionths of a nat", curves).save(args.image)


if __name__ == "__main__":
    run(arguments("20-many-processes", __doc__, documents=500, steps=20))
