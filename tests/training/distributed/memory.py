"""What processes do in the tests of memory and precision: `python -m tests.training.distributed.memory WHAT JSON`."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from penjing.data.batch import TokenBatch
from penjing.models.folder import fill_from
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.training.distributed.engine import DistributedEngine
from penjing.training.distributed.mesh import Mesh, Parallel
from penjing.training.distributed.pipeline import rows_of
from penjing.training.distributed.team import together
from penjing.training.objectives import next_token
from penjing.training.recomputation import MODES, recompute_activations
from penjing.training.weights import local, whole
from tests.training.distributed.work import OPTIMIZERS, Case

CASE = Case(tied=True, vocab=26, packed=True)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def dropping(case: Case, chance: float = 0.2) -> LanguageModel:
    """The case's model, with dropout of what blocks write."""
    plain = case.model()
    layers = tuple(replace(layer, dropout=chance) for layer in plain.config.layers)
    model = replace(plain.config, layers=layers).build()
    model.load_state_dict(plain.state_dict())
    return model


def engine_of(case: Case, mesh: Mesh, dtype: str, model: LanguageModel | None = None) -> DistributedEngine:
    """An engine of this process."""
    return DistributedEngine(model or case.model(), next_token, OPTIMIZERS[case.optimizer], mesh, dtype=DTYPES[dtype])


def recompute(layouts: list[dict[str, int]]) -> dict[str, Any]:
    """For each layout, precision and mode: the loss, and how far any gradient is from that of keeping everything."""
    found: dict[str, Any] = {}
    for mesh in (Mesh(Parallel(**axes)) for axes in layouts):
        for dtype in DTYPES:
            kept: list[Tensor] = []
            found[f"{mesh.parallel} {dtype}"] = modes = {}
            for mode in MODES:
                engine = engine_of(CASE, mesh, dtype, dropping(CASE))
                undo = recompute_activations(engine.model, mode)
                torch.manual_seed(mesh.row)
                batches = [rows_of(CASE.batch(number), mesh.rows)[mesh.row] for number in range(2)]
                total, *_ = engine._gradients(batches)
                gradients = [gradient.clone() for gradient in engine.weights.gradients]
                kept = kept or gradients
                differences = [(one - two).abs().max().item() for one, two in zip(kept, gradients, strict=True)]
                size = max(gradient.abs().max().item() for gradient in gradients)
                modes[mode] = {"loss": total.item(), "difference": max(differences), "size": size}
                if mesh.parallel.shard > 1:
                    modes[mode]["bytes"] = _held(engine, batches[0])
                undo()
    return found


def _held(engine: DistributedEngine, batch: Any) -> int:
    """What a forward pass allocates and leaves for the backward pass."""
    (part,) = engine.parts
    part.batches, part.losses = [batch], []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = part(index=torch.zeros(1))
    loss.sum().backward()
    return sum(event.self_cpu_memory_usage for event in profiler.events())


def precision(offload: bool, optimizer: str) -> dict[str, Any]:
    """What computes in which dtype with bfloat16 under shard 2, and what two steps' losses and weights are."""
    case = replace(CASE, optimizer=optimizer)
    mesh = Mesh(Parallel(shard=2, offload=offload))
    engine = engine_of(case, mesh, "bf16")
    computing: set[str] = set()

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        computing.update(str(parameter.dtype) for parameter in module.parameters(recurse=False))
        computing.add(str(output.dtype))

    for module in engine.model.blocks.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(note)
    losses, norms = [], []
    batches = [rows_of(case.batch(number), 2)[mesh.row] for number in range(2)]
    engine._gradients([batches[0]])
    gradients = {name: whole(local(p.grad), like=p) for name, p in engine.weights.trained.items()}
    first = {name: gradient.tolist() for name, gradient in gradients.items()}
    engine.weights.publish()
    for batch in batches:
        loss, norm = engine.step([batch]).read()
        losses.append(loss)
        norms.append(norm)
    masters = engine.weights.trained
    return {
        "computing": sorted(computing),
        "masters": sorted({str(p.dtype) for p in masters.values()}),
        "gradients": sorted({str(g.dtype) for g in gradients.values()}),
        "states": sorted({str(t.dtype) for p in masters.values() for t in engine.optimizer.state[p].values()}),
        "devices": sorted({str(local(p).device) for p in masters.values()}),
        "first": first,
        "losses": losses,
        "norms": norms,
        "weights": {name: whole(local(p).detach(), like=p).tolist() for name, p in masters.items()},
    }


def begin(layouts: list[dict[str, int]], folder: str) -> dict[str, Any]:
    """For each layout and way of filling: names of this process's weights that differ from those of a whole model."""
    found = {}
    for mesh in (Mesh(Parallel(**axes)) for axes in layouts):
        for case in (CASE, Case(family="gpt2", vocab=25)):
            for way, fill in _ways(folder if case is CASE else None).items():
                whole_model = case.model()
                with torch.no_grad():
                    fill(whole_model)
                expected = dict(whole_model.named_parameters())
                with torch.device("meta"):
                    model = whole_model.config.build()
                engine = DistributedEngine(model, next_token, OPTIMIZERS[case.optimizer], mesh, fill=fill)
                mine = engine.weights.all
                gathered = {name: whole(local(p).detach(), like=p) for name, p in mine.items()}
                differ = [
                    name for name, p in gathered.items() if not torch.equal(p, expected[engine._alias.get(name, name)])
                ]
                loss, _ = engine.step([rows_of(case.batch(0), mesh.rows)[mesh.row]]).read()
                found[f"{mesh.parallel} {case.family} {way}"] = [len(mine), differ, loss]
    return found


def _ways(folder: str | None) -> dict[str, Callable[[LanguageModel], None]]:
    """Ways of filling a model: its own, an own layer's that draws right into its weights, a folder's."""

    def initialise(model: LanguageModel) -> None:
        model.initialise(torch.Generator().manual_seed(3))

    def drawn_in_place(model: LanguageModel) -> None:
        generator = torch.Generator().manual_seed(4)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0, 0.1, generator=generator)
            parameter.add_(0.01)

    ways = {"initialise": initialise, "in place": drawn_in_place}
    return ways if folder is None else ways | {"folder": partial(fill_from, folder)}


LARGE = LanguageModel.Config(
    vocab=8000,
    width=1024,
    layers=(Block.Config(Attention.Config(heads=8, rope=Rope.Config()), SwiGLU.Config(hidden=2816), RMSNorm.Config()),)
    * 3,
    context=64,
    norm=RMSNorm.Config(),
)
"""56 million weights: 217 MiB."""


def large_batch(number: int) -> TokenBatch:
    """Four rows for the large model."""
    tokens = torch.randint(LARGE.vocab, (4, 17), generator=torch.Generator().manual_seed(number))
    return TokenBatch(tokens[:, :-1], tokens[:, 1:], torch.ones(4, 16, dtype=torch.bool))


def peak(deferred: bool) -> dict[str, Any]:
    """By how many bytes this process's memory grew at most while the large model was begun; two steps' losses."""
    mesh = Mesh(Parallel(shard=2))
    generator = torch.Generator().manual_seed(5)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
    with torch.device("meta" if deferred else "cpu"):
        model = LARGE.build()
    if not deferred:
        model.initialise(generator)
    engine = DistributedEngine(
        model, next_token, OPTIMIZERS["adamw"], mesh, fill=lambda model: model.initialise(generator)
    )
    grown = _memory("VmHWM") - before
    share = sum(local(p).nbytes for p in engine.weights.all.values())
    losses = [engine.step([rows_of(large_batch(number), 2)[mesh.row]]).read()[0] for number in range(2)]
    return {"grown": grown, "share": share, "losses": losses}


def _memory(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what + ":"))


WORK = {"recompute": recompute, "precision": precision, "begin": begin, "peak": peak}


def main() -> None:
    """Does what the arguments say, and prints what it found as the last line."""
    torch.set_num_threads(1)
    what, settings = sys.argv[1], json.loads(sys.argv[2])
    with together(Parallel(data=int(os.environ["WORLD_SIZE"])), "same", 120.0):
        print(json.dumps(WORK[what](**settings)))


if __name__ == "__main__":
    main()
