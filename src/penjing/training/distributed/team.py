"""The processes of one run: how they find each other, agree, and end together.

    torchrun --nproc-per-node 4 -m penjing run RECIPE

torchrun tells each process its rank and where to meet. A process that fails leaves its error in the store in which they
met; a watch in every other process sees it within seconds and ends that one too, so that nobody waits for the dead.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from penjing.errors import ConfigError, PenjingError, TrainingError
from penjing.models.language_model import LanguageModel
from penjing.training import randomness
from penjing.training.crew import Crew
from penjing.training.distributed.checkpoints import TeamCheckpoints
from penjing.training.distributed.mesh import Mesh, Parallel
from penjing.training.distributed.part import check_division

if TYPE_CHECKING:
    from penjing.training.adamw import AdamW
    from penjing.training.deferred import Fill
    from penjing.training.distributed.engine import DistributedEngine
    from penjing.training.muon import Muon
    from penjing.training.objectives import Objective

_LOOK_SECONDS = 0.5
_GRACE_SECONDS = 10.0
_MEET_SECONDS = 60.0
_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""What gloo and NCCL say when the other end of a connection is no more."""
_SILENCE = timedelta(minutes=30)
"""How long an exchange may take: the first process may be saving or measuring meanwhile."""


class Team(Crew):
    """This process and the others."""

    same_signal_within = 5.0  # Slurm tells torchrun and the processes, and torchrun tells these once more

    def __init__(self, parallel: Parallel, device: torch.device, store: Store):
        self.parallel = parallel
        self._device = device
        self.mesh = Mesh(parallel, device)
        self.first = self.mesh.first
        self.size, self.tensor = parallel.world, parallel.tensor
        self._store = store
        self._said = 0

    @property
    def readers(self) -> tuple[int, int]:
        """Which part of each batch's rows is this process's, and of how many."""
        return self.mesh.row, self.mesh.rows

    def told(self, value: Any = None) -> Any:
        """What the first process says; waits for it as long as it takes."""
        self._said += 1
        key = f"said/{self._said}"
        if self.first:
            self._store.set(key, json.dumps(value))
            return value
        while not self._store.check([key]):
            time.sleep(0.02)
        return json.loads(self._store.get(key))

    def agreed(self, seconds: float, asked: bool) -> tuple[float, bool]:
        """The first process's seconds, and whether anyone was asked to stop."""
        seconds, askers = self._sum(seconds if self.first else 0.0, float(asked))
        return seconds, askers > 0

    def tokens(self, here: int) -> int:
        """How many tokens all have read together; those that divide a row's tokens or the layers read the same ones."""
        return round(self._sum(here)[0] * self.mesh.rows / self.size)

    def seed(self, seed: int, step: int) -> None:
        """Starts the random generators, otherwise on each process."""
        mixed = np.random.SeedSequence([seed, step, dist.get_rank()]).generate_state(1, np.uint64)
        randomness.seed_everything(int(mixed[0] >> 1))

    def checkpoints(self, folder: Path, keep: int, say: Callable[[str], None], **how: Any) -> TeamCheckpoints:
        """Where the run's checkpoints lie."""
        return TeamCheckpoints(self, folder, keep, say, **how)

    def check(self, model: nn.Module, rows: int, row: int) -> None:
        """Whether a model, and batches of so many rows of so many tokens, can be divided among the processes."""
        if isinstance(model, LanguageModel):
            check_division(model, rows, row, self.mesh)

    def device(self, name: str) -> torch.device:
        """This process's device."""
        return self._device

    def engine(
        self,
        model: nn.Module,
        objective: "Objective",
        optimizer: "AdamW.Config | Muon.Config",
        *,
        device: torch.device,
        dtype: torch.dtype,
        clip: float | None,
        fill: "Fill | None" = None,
    ) -> "DistributedEngine":
        """What takes the steps; `fill` puts the first weights into a model that has no memory yet."""
        from penjing.training.distributed.engine import DistributedEngine

        return DistributedEngine(model, objective, optimizer, self.mesh, dtype=dtype, clip=clip, fill=fill)

    def _sum(self, *numbers: float) -> list[float]:
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(tensor)  # on the CPU, whatever trains
        return tensor.tolist()


def processes() -> int:
    """How many processes torchrun has started for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def together(parallel: Parallel, nature: str, patience: float = _MEET_SECONDS) -> Iterator[Team]:
    """Meets the other processes; within it they are a team, and an error on one ends all.

    Args:
        parallel: how the work is divided.
        nature: a digest of what is to be done; it must be the same on every process.
        patience: how many seconds to wait for the others.

    Raises:
        ConfigError: the others cannot be reached, are of another number, or were given another recipe.
    """
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available()
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} of this machine needs a GPU of its own, and there are {torch.cuda.device_count()}"
        )
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        _share_cores()
    store = _meet(rank, patience)
    watch = _Watch(_meet(rank, patience, again=True), rank)  # of its own: a store waits for one answer at a time
    try:
        _compare(store, rank, nature, patience)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        groups = PrefixStore("groups", store)
        dist.init_process_group(backend, store=groups, rank=rank, world_size=processes(), timeout=_SILENCE)
        yield Team(parallel, device, store)
    except PenjingError as error:
        watch.tell(str(error))
        raise
    except Exception as error:
        if watch.somebody_failed():  # this one broke because another one left
            raise watch.verdict() from None
        if any(sign in str(error) for sign in _GONE):
            raise TrainingError(
                f"another process has gone without a word (killed, or out of memory?), and process {rank} stops; "
                "run the same command again to go on from the last checkpoint"
            ) from None
        watch.tell(f"{type(error).__name__}: {error}")
        raise
    finally:
        watch.stop()
        with suppress(Exception):
            dist.destroy_process_group()


def _meet(rank: int, patience: float, again: bool = False) -> Store:
    """The store in which the processes leave word for each other."""
    address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500"))
    hosted_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(
            address,
            port,
            processes(),
            is_master=rank == 0 and not hosted_by_torchrun and not again,
            timeout=timedelta(seconds=patience),
            wait_for_workers=False,
        )
    except (dist.DistError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"process {rank} cannot reach the others at {address}:{port} ({reason}); "
            "look at MASTER_ADDR, MASTER_PORT and firewalls"
        ) from None
    # restarts meet in the same store if it is torchrun's; else in a new one, and then the nodes' counts may differ
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if hosted_by_torchrun else "0"
    run = os.environ.get("TORCHELASTIC_RUN_ID", "run")
    return PrefixStore(f"penjing/{run}/{attempt}", store)


def _compare(store: Store, rank: int, nature: str, patience: float) -> None:
    """Whether all processes were given the same work; waits until all are there."""
    store.set(f"nature/{rank}", nature)
    keys = [f"nature/{other}" for other in range(processes())]
    until = time.monotonic() + patience
    while not store.check(keys):
        if time.monotonic() > until:
            absent = [str(other) for other, key in enumerate(keys) if not store.check([key])]
            raise ConfigError(
                f"process {rank} has waited {patience:.0f} s for process {', '.join(absent)} of {len(keys)}: "
                "start as many as --nnodes times --nproc-per-node says"
            )
        time.sleep(0.02)
    other = [str(rank) for rank, key in enumerate(keys) if store.get(key).decode() != store.get(keys[0]).decode()]
    if other:
        raise ConfigError(
            f"process {', '.join(other)} was given another recipe, other settings or another version of Penjing than "
            "process 0; start all with the same command on the same files"
        )


def _share_cores() -> None:
    """Processes on one machine's CPU divide its cores."""
    if "OMP_NUM_THREADS" not in os.environ or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class _Watch:
    """A thread that looks whether another process has failed."""

    def __init__(self, store: Store, rank: int):
        self._store, self._rank = store, rank
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def tell(self, text: str) -> None:
        """Leaves word of this process's failure, if it is the first."""
        with suppress(Exception):
            self._store.compare_set("failure", "", json.dumps([self._rank, text]))

    def somebody_failed(self) -> bool:
        """Whether another process has left word of its failure, or will at once."""
        until = time.monotonic() + 2
        while time.monotonic() < until:
            with suppress(Exception):
                if self._store.check(["failure"]):
                    return True
            time.sleep(0.05)
        return False

    def verdict(self) -> TrainingError:
        """Why this process ends."""
        rank, text = json.loads(self._store.get("failure"))
        return TrainingError(f"process {rank} failed, and process {self._rank} stops with it: {text}")

    def stop(self) -> None:
        """Looks no longer."""
        self._done.set()
        self._thread.join(timeout=5)

    def _look(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            try:
                failed = self._store.check(["failure"])
            except Exception:  # the process that kept the store is gone, and its end will be noticed in an exchange
                return
            if failed and not self._done.wait(_GRACE_SECONDS):  # it may be waiting where no exception can reach it
                print(f"penjing: {self.verdict()}", file=sys.stderr, flush=True)
                os._exit(2)
