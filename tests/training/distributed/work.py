"""What processes of the tests do: `python -m tests.training.distributed.work WHAT JSON`, started by `launch`."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from penjing.data.batch import TokenBatch
from penjing.errors import PenjingError
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm, RMSNorm
from penjing.nn.positions import LearnedPositions
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.training.adamw import AdamW
from penjing.training.budget import Budget
from penjing.training.crew import Crew
from penjing.training.distributed.engine import DistributedEngine
from penjing.training.distributed.mesh import Mesh, Parallel
from penjing.training.distributed.pipeline import rows_of
from penjing.training.distributed.team import together
from penjing.training.engine import Engine
from penjing.training.muon import Muon
from penjing.training.objectives import next_token
from penjing.training.trainer import Trainer

OPTIMIZERS = {
    "adamw": AdamW.Config(learning_rate=1e-2),
    "muon": Muon.Config(learning_rate=1e-2, precision="fp32", adamw=AdamW.Config(learning_rate=1e-2)),
}


@dataclass(frozen=True)
class Case:
    """A model, an optimizer, and how the batch comes."""

    family: str = "qwen3"
    tied: bool = False
    vocab: int = 24
    optimizer: str = "adamw"
    accumulate: int = 1
    packed: bool = False
    window: int | None = None
    softcap: float | None = None

    def model(self) -> LanguageModel:
        """Four layers, four query heads on two key heads; the same every time."""
        norm: Any = RMSNorm.Config()
        mlp: Any = SwiGLU.Config(hidden=24)
        mixer = Attention.Config(
            heads=4, kv_heads=2, rope=Rope.Config(), qk_norm=norm, window=self.window, softcap=self.softcap
        )
        positions = None
        if self.family == "gpt2":
            norm, mlp = LayerNorm.Config(), MLP.Config(hidden=32)
            mixer = Attention.Config(heads=4, bias=True, output_bias=True)
            positions = LearnedPositions.Config()
        block = Block.Config(mixer=mixer, mlp=mlp, norm=norm)
        model = LanguageModel.Config(
            vocab=self.vocab, width=16, layers=(block,) * 4, context=32, norm=norm, tied=self.tied, positions=positions
        ).build()
        model.initialise(torch.Generator().manual_seed(1))
        if self.family == "gpt2":  # biases that are not zero would show one that is added twice
            for index, (name, parameter) in enumerate(model.named_parameters()):
                if name.endswith("bias"):
                    torch.nn.init.normal_(parameter, 0, 0.1, generator=torch.Generator().manual_seed(index))
        return model

    def batch(self, number: int, rows: int = 8, seq: int = 24) -> TokenBatch:
        """Random tokens of which some do not count, in documents if packed."""
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(self.vocab, (rows, seq + 1), generator=generator)
        mask = torch.rand(rows, seq, generator=generator) < 0.7
        begins = torch.rand(rows, seq, generator=generator) < 0.1
        return TokenBatch(tokens[:, :-1], tokens[:, 1:], mask, None, begins.cumsum(1) if self.packed else None)


def losses(case: Case, engine: Engine, steps: int, readers: tuple[int, int] = (0, 1)) -> list[Any]:
    """Loss and gradient norm of each step, and the mean of a validation batch whose rows no two processes share."""
    rank, count = readers
    found: list[Any] = []
    for step in range(steps):
        numbers = range(step * case.accumulate, (step + 1) * case.accumulate)
        found.append(engine.step([rows_of(case.batch(number), count)[rank] for number in numbers]).read())
    return found


class RowsLoader:
    """A case's batches; each process takes its own rows."""

    def __init__(
        self,
        case: Case,
        readers: tuple[int, int],
        stop_at: int | None = None,
        fail_at: int | None = None,
        full_at: int | None = None,
    ):
        self.case, self.readers, self.drawn = case, readers, 0
        self.rows = 8
        self._stop_at, self._fail_at, self._full_at = stop_at, fail_at, full_at

    def __next__(self) -> TokenBatch:
        self.drawn += 1
        if self.drawn == self._stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        if self.drawn == self._fail_at:
            raise PenjingError("this process's disk fell out")
        if self.drawn == self._full_at:  # as a full disk: files can no longer grow beyond so many bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        return rows_of(self.case.batch(self.drawn), self.readers[1])[self.readers[0]]

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


def train(crew: Crew, out: str, case: Case, steps: int, every: int, **loader: Any) -> None:
    """A run of the Trainer; each step's loss is in its metrics."""
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", "0"))
    loader = {name: at for name, (who, at) in loader.items() if who == rank}
    config = Trainer.Config(
        Budget(steps=steps), OPTIMIZERS[case.optimizer], precision="fp32", display="quiet", checkpoint_every=every
    )
    rows = RowsLoader(case, crew.readers, **loader)
    config.build(case.model(), next_token, rows, Path(out), crew=crew).run()


def compare(meshes: list[dict[str, int]], cases: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """For each mesh and case, what `losses` finds, and a validation's mean loss over three rows."""
    found = {}
    for mesh in (Mesh(Parallel(**axes)) for axes in meshes):
        for case in (Case(**settings) for settings in cases):
            engine = DistributedEngine(case.model(), next_token, OPTIMIZERS[case.optimizer], mesh)
            numbers = losses(case, engine, steps, (mesh.row, mesh.rows))
            total, weight = engine.summed_loss([case.batch(99, rows=3)])
            found[f"{mesh.parallel} {json.dumps(asdict(case))}"] = [*numbers, [total / weight, 0.0]]
    return found


def launch(
    count: int,
    what: str,
    environment: dict[str, str] | None = None,
    module: str = "tests.training.distributed.work",
    **settings: Any,
) -> list[subprocess.Popen[str]]:
    """Starts so many processes of a module, which meet on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", module, what, json.dumps(settings)]
    world = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "MASTER_PORT": str(port), "RANK": str(rank), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes: list[subprocess.Popen[str]], seconds: float = 240) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each; those that do not end in time are killed, and have code -9."""
    until = time.monotonic() + seconds
    ends = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        ends.append((process.returncode, out, err))
    return ends


def main() -> None:
    """Does what the arguments say; a `PenjingError` is printed, and the exit code is then 2."""
    torch.set_num_threads(1)
    what, settings = sys.argv[1], json.loads(sys.argv[2])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        axes = settings.pop("mesh", {"data": world})
        nature = settings.pop("natures", ["same"] * world)[rank]
        if what == "train":
            settings["case"] = Case(**settings["case"])
            if world == 1:
                train(Crew(), **settings)
                return
        patience = settings.pop("patience", 30.0)
        with together(Parallel(**axes), nature, patience) as team:
            if what == "compare":
                print(json.dumps(compare(**settings)))
            else:
                train(team, **settings)
    except PenjingError as error:
        print(f"process {rank}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
