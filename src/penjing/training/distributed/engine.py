"""One optimizer step on many processes; the same losses as on one.

    each process: gradients of sums over its rows, its tokens, its layers
    FSDP adds them up while the backward pass goes on, and leaves each process its piece of them
    one all-reduce: the summed loss, the squared gradient norm, the metrics
    every process updates its pieces of the weights

Losses are sums and are divided by what they are sums over at the very end, so that it does not matter how rows and
tokens fall on processes. Weights are float32 pieces; FSDP hands bfloat16 copies of them to the layers that compute.

Source: PyTorch's FSDP2, `torch.distributed.fsdp.fully_shard`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from penjing.data.batch import TokenBatch
from penjing.errors import TrainingError
from penjing.models.language_model import LanguageModel
from penjing.nn.norms import RMSNorm
from penjing.training.adamw import AdamW
from penjing.training.deferred import Fill, fill_pieces, is_deferred, make_room
from penjing.training.distributed import context, tensor
from penjing.training.distributed.mesh import Mesh
from penjing.training.distributed.part import Part, check_division, layers_of
from penjing.training.distributed.pipeline import Pipeline, rows_of, tie_group
from penjing.training.engine import Engine, origins
from penjing.training.muon import Muon
from penjing.training.objectives import Loss, Objective
from penjing.training.weights import Weights, local


class DistributedEngine(Engine):
    """This process's part of a model, its weights and their optimizer; `step` is called on all processes at once."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: AdamW.Config | Muon.Config,
        mesh: Mesh,
        *,
        dtype: torch.dtype = torch.float32,
        clip: float | None = 1.0,
        fill: Fill | None = None,
    ):
        """Divides a model; all processes must have the same one.

        Args:
            model: its weights are taken apart; on the meta device it gets memory for this process's pieces only.
            objective: what is learned.
            optimizer: what updates the weights.
            mesh: how the processes are laid out.
            dtype: what layers compute in; weights, their gradients' sums and the optimizer's numbers are float32.
            clip: the largest gradient norm.
            fill: puts the first weights into a model on the meta device; None leaves it to a checkpoint.
        """
        if not isinstance(model, LanguageModel):
            raise TrainingError(f"only language models train on several processes; this is a {type(model).__name__}")
        check_division(model, None, None, mesh)
        self.model: LanguageModel = model
        self.objective = objective
        self.mesh, self.device, self.clip = mesh, mesh.device, clip
        deferred = is_deferred(model)
        if not mesh.parallel.offload and not deferred:
            model.to(mesh.device)
        if mesh.parallel.tensor > 1:
            tensor.divide(model, mesh.tensor)
        if mesh.parallel.context > 1:
            context.join(model, context.Ring.of(mesh.context))
        spans = layers_of(mesh, len(model.blocks))
        self.parts = [Part(model, objective, mesh, *span) for span in spans]
        self._drop_the_rest()
        for part in self.parts:
            _shard(part, mesh, dtype)
        self._tie()
        if deferred:
            make_room(self.parts, torch.device("cpu") if mesh.parallel.offload else mesh.device)
            if fill is not None:
                fill_pieces(model, fill)
        self.weights = Weights(self._module(), torch.float32)
        self.optimizer = optimizer.build(model, self.weights.trained)
        self.pipeline = Pipeline(self.parts, mesh, dtype) if mesh.parallel.pipeline > 1 else None
        tied = model.config.tied and self.pipeline is not None
        self._ends = tie_group(mesh) if tied else None
        self._counts_twice = self._ends is not None and self.parts[-1].ends
        self._alias = {"head.weight": "embedding.weight"} if self._counts_twice else {}
        self._metrics: list[str] | None = None

    @property
    def reader(self) -> "DistributedEngine":
        """What a validation is to measure: this, by `summed_loss`."""
        return self

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds, this process's pieces: `weights/NAME` and `optimizer/NAME/WHAT`."""
        state = {}
        for name, master in self.weights.all.items():
            name = self._alias.get(name, name)
            state[f"weights/{name}"] = master.detach()
            state |= {f"optimizer/{name}/{what}": value for what, value in self.optimizer.state[master].items()}
        return state

    def known_as(self, name: str) -> list[Tensor]:
        """This process's parameters of a name in the whole model: none, one, or the two ends of a tie."""
        return [p for own, p in self.weights.all.items() if self._alias.get(own, own) == name]

    def blank(self) -> LanguageModel:
        """A model of the same shape, whole, on the CPU, its weights zero."""
        return self.model.config.build()

    def summed_loss(self, batches: Iterable[TokenBatch]) -> tuple[float, int]:
        """The objective summed over batches that every process is given whole, and the weight of the sum."""
        sums = torch.zeros(2, dtype=torch.float64)
        self.model.eval()
        with torch.no_grad():
            for batch in batches:
                own = _share_of(batch, self.mesh).to(self.device)
                for loss in self._forward(own):
                    sums += torch.tensor([float(loss.total), loss.weight])
        self.model.train()
        total, weight = self._sum(sums if self._speaks else torch.zeros_like(sums))
        return total, int(weight)

    def _forward(self, batch: TokenBatch) -> list[Loss]:
        if self.pipeline:
            return self.pipeline.run([batch], backward=False)
        part = self.parts[0]
        part.batches, part.losses = [batch], []
        part(index=torch.zeros(1))
        return part.losses

    def _gradients(self, batches: Sequence[Any]) -> tuple[Tensor, Tensor, float, Mapping[str, float]]:
        moved = [batch.to(self.device) for batch in batches]
        losses = self.pipeline.run(moved, backward=True) if self.pipeline else self._backward(moved)
        if self._ends is not None:
            self._add_tied_gradients()
        if not self._speaks:
            losses = []
        sums = defaultdict[str, float](float)
        for loss in losses:
            for name, value in loss.metrics.items():
                sums[name] += value
        names = self._names(list(sums))
        counts = self._sum(
            torch.tensor([sum(loss.weight for loss in losses), *(sums[name] for name in names)]).double()
        )
        numbers = torch.stack([sum((loss.total.float() for loss in losses), self._nought()), self._squares()])
        dist.all_reduce(numbers)
        weight, *means = counts
        if weight == 0:
            raise TrainingError(f"nothing in the batch counts in the loss ({origins(batches)})")
        return numbers[0], numbers[1].sqrt(), weight, dict(zip(names, means, strict=True))

    def _backward(self, batches: Sequence[TokenBatch]) -> list[Loss]:
        part = self.parts[0]
        part.batches, part.losses = batches, []
        for index in range(len(batches)):
            last = index == len(batches) - 1
            sharded = cast(FSDPModule, part)
            sharded.set_is_last_backward(last)
            sharded.set_requires_gradient_sync(last)
            part(index=torch.tensor([index])).sum().backward()
        return part.losses

    @property
    def _speaks(self) -> bool:
        """Whether the losses that this process finds are to be counted; else another one finds the same."""
        return self.parts[-1].ends and (self.mesh.place["tensor"] == 0 or self.model.head.share is None)

    def _names(self, here: list[str]) -> list[str]:
        """The names of the objective's metrics, which not all processes see."""
        if self._metrics is None:
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, here)
            self._metrics = list(dict.fromkeys(name for names in everyone for name in names))
        return self._metrics

    def _squares(self) -> Tensor:
        """The squares of this process's pieces of the gradients, added up over all, each counts once."""
        squares = self._nought()
        for name, master in self.weights.trained.items():
            if master.grad is not None and not (self._counts_twice and name == "head.weight"):
                squares += local(master.grad).square().sum() / _copies(master)
        return squares

    def _add_tied_gradients(self) -> None:
        """A tied embedding's gradient comes from both ends of the pipeline."""
        name = {"head.weight", "embedding.weight"} & self.weights.trained.keys()
        if name and self._ends is not None and (self.parts[0].begins or self.parts[-1].ends):
            gradient = self.weights.trained[name.pop()].grad
            assert gradient is not None
            dist.all_reduce(local(gradient), group=self._ends)

    def _sum(self, numbers: Tensor) -> list[float]:
        dist.all_reduce(numbers)
        return numbers.tolist()

    def _nought(self) -> Tensor:
        return torch.zeros((), device=self.device)

    def _module(self) -> nn.Module:
        """One module that has this process's parameters, under the model's names."""
        if len(self.parts) == 1:
            return self.parts[0]
        whole = nn.Module()
        whole.blocks = nn.ModuleDict({name: block for part in self.parts for name, block in part.blocks.items()})
        for part in self.parts:
            for name, child in part.named_children():
                if name != "blocks":
                    whole.add_module(name, child)
        return whole

    def _drop_the_rest(self) -> None:
        """Layers of other processes need no memory here."""
        mine = {id(parameter) for part in self.parts for parameter in part.parameters()}
        for module in self.model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in mine:
                    module._parameters[name] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    def _tie(self) -> None:
        """A tied head or embedding that is no part of this process's becomes the one that is, and needs no memory."""
        if self.parts[-1].ends and not self.parts[0].begins and self.model.config.tied:
            self.model.embedding.weight = self.model.head.weight
        else:
            self.model.tie()


def _shard(part: Part, mesh: Mesh, dtype: torch.dtype) -> None:
    """FSDP: each block is put together when it computes, and the ends together with the whole."""
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    offload: OffloadPolicy = OffloadPolicy()
    if mesh.parallel.offload:
        offload = CPUOffloadPolicy(pin_memory=mesh.device.type == "cuda")
    for block in part.blocks.values():
        fully_shard(block, mesh=mesh.weights, mp_policy=policy, offload_policy=offload)
    fully_shard(part, mesh=mesh.weights, mp_policy=policy, offload_policy=offload)
    for module in part.modules():
        if isinstance(module, RMSNorm):
            module.own_kernels = False  # FSDP frees weights between uses
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            if mesh.device.type == "cpu":  # gloo knows plain sums only
                module.set_force_sum_reduction_for_comms(True)


def _copies(parameter: Tensor) -> int:
    """How many processes have the same piece of a parameter."""
    if not isinstance(parameter, DTensor):
        return 1
    mesh = parameter.device_mesh
    return math.prod(mesh.size(axis) for axis, how in enumerate(parameter.placements) if isinstance(how, Replicate))


def _share_of(batch: TokenBatch, mesh: Mesh) -> TokenBatch:
    """This process's rows of a batch; padded with rows that do not count where there are too few for all."""
    rows = -(-len(batch.tokens) // mesh.rows)
    missing = rows * mesh.rows - len(batch.tokens)

    def padded(x: Tensor) -> Tensor:
        return x if len(x) != len(batch.tokens) else torch.cat([x, x.new_zeros(missing, x.shape[1])])

    return rows_of(batch.changed(padded) if missing else batch, mesh.rows)[mesh.row]
