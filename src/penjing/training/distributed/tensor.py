"""Tensor parallelism: processes compute a layer together, each with its share of the matrices.

    columns   y_t = x W_t^T       each process has some of the outputs: some heads, some hidden numbers
    rows      y = sum_t y_t V_t^T  each has what it needs as inputs of the next map; the sum puts them together

so that a perceptron or an attention layer talks once before and once after, not in the middle. Between layers each
process has a slice of the tokens (sequence parallelism): what goes in is gathered, what comes out is summed and cut up
again, and norms, dropout and residuals are computed once, not by each. Embedding and head divide the vocabulary.

A layer says in `shares` which of its maps divide what; it computes with plain tensors, its own share, and knows nothing
of other processes. Parameters are DTensors; around each call of a layer this process's part takes their place. A layer
that has no `shares` is computed whole by each.

Sources: Shoeybi et al., "Megatron-LM", 2019, arXiv:1909.08053, section 3; Korthikanti et al., "Reducing Activation
Recomputation in Large Transformer Models", 2022, arXiv:2205.05198, section 4.2.2 (sequence parallelism).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from penjing.errors import ConfigError
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.linear import Embedding

_SEQUENCE = 1  # the dimension of (batch, seq, width) that is cut up between layers


def check(model: LanguageModel, size: int) -> None:
    """Whether the layers can be divided.

    Raises:
        ConfigError: they cannot; it names the first that cannot.
    """
    for name, module in model.named_modules():
        if isinstance(module, Attention) and module.kv_heads % size:
            raise ConfigError(
                f"tensor = {size} does not divide the {module.kv_heads} key and value heads of {name} "
                f"(of {module.heads} query heads)"
            )
        for part, dimension in _shares(module).items():
            weight = module.get_submodule(part).weight
            if cast(Tensor, weight).shape[dimension] % size:
                raise ConfigError(
                    f"tensor = {size} does not divide the {weight.shape[dimension]} numbers of {name}.{part}"
                )


def divide(model: LanguageModel, mesh: DeviceMesh) -> bool:
    """Makes every parameter a DTensor, and every layer compute with its share; whether the vocabulary is divided, too.

    A vocabulary that does not come out even is not: then each process computes the loss of its slice of the tokens.
    """
    layers = _Layers(mesh)
    for block in model.blocks:
        if not isinstance(block, Block):
            raise ConfigError(f"tensor parallelism does not know how to divide a {type(block).__name__}")
        for name, layer in block.named_children():
            if name in ("mixer", "mlp"):
                layers.wide(layer)
            else:
                layers.narrow(layer)
    layers.narrow(model.norm)
    even = model.config.vocab % mesh.size() == 0
    layers.embedding(model.embedding, even)
    if model.learned_positions is not None:
        layers.positions(model.learned_positions)
    layers.head(model.head, even)
    model.tie()
    return even


class VocabularyShare:
    """This process's part of the vocabulary (`nn.head.Share`)."""

    def __init__(self, mesh: DeviceMesh, rows: int):
        self.first = mesh.get_local_rank() * rows
        self._group = mesh.get_group()

    def largest(self, numbers: Tensor) -> Tensor:
        """The largest of all processes' numbers, in place."""
        dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group)
        return numbers

    def total(self, numbers: Tensor) -> Tensor:
        """Their sum, in place."""
        dist.all_reduce(numbers, group=self._group)
        return numbers


def gathered(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """All processes' slices of the tokens, `(batch, seq, width)`; their gradients are added up and cut again."""
    whole = DTensor.from_local(x, mesh, [Shard(_SEQUENCE)], run_check=False).redistribute(placements=[Replicate()])
    return whole.to_local(grad_placements=[Partial()])


def added(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The sum of what the processes computed for all tokens; this process's slice of it."""
    return (
        DTensor.from_local(x, mesh, [Partial()], run_check=False).redistribute(placements=[Shard(_SEQUENCE)]).to_local()
    )


def own_slice(x: Tensor, mesh: DeviceMesh, dim: int = _SEQUENCE) -> Tensor:
    """This process's slice of the tokens of something that all of them have."""
    return x.chunk(mesh.size(), dim)[mesh.get_local_rank()]


class _Layers:
    """Divides parameters and wraps the forwards of layers."""

    def __init__(self, mesh: DeviceMesh):
        self.mesh = mesh
        self._divided: dict[int, nn.Parameter] = {}  # tied parameters stay one

    def wide(self, layer: nn.Module) -> None:
        """A mixer or perceptron: reads all tokens, works with its share, and adds up what it writes."""
        shares = _shares(layer)
        once: list[Any] = [layer.get_submodule(part) for part, dimension in shares.items() if dimension == 1]
        for name, module in layer.named_modules():
            self._place(module, shares.get(name))
        alone = self.mesh.get_local_rank() == 0

        def forward(original: Callable[..., Tensor], x: Tensor, *more: Any) -> Tensor:
            with self._shares_of(layer):
                x = gathered(x, self.mesh)
                if not shares:
                    return own_slice(original(x, *more), self.mesh)
                for module in once:  # what is added up may have its bias once
                    if module.bias is not None and not alone:
                        module._parameters["bias"] = module.bias * 0
                return added(original(x, *more), self.mesh)

        _wrap(layer, forward)

    def narrow(self, layer: nn.Module) -> None:
        """A norm: works on its slice of the tokens."""
        for module in layer.modules():
            self._place(module, None)

        def forward(original: Callable[..., Tensor], x: Tensor) -> Tensor:
            with self._shares_of(layer):
                return original(x)

        _wrap(layer, forward)

    def embedding(self, layer: Embedding, even: bool) -> None:
        """Divided by tokens of the vocabulary; else each process looks its slice of the text up."""
        rows = layer.num_embeddings // self.mesh.size()
        self._place(layer, 0 if even else None)
        first = rows * self.mesh.get_local_rank()

        def forward(original: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
            with self._shares_of(layer):
                if not even:
                    return original(own_slice(tokens, self.mesh))
                own = (tokens >= first) & (tokens < first + rows)
                found = original((tokens - first).clamp(0, rows - 1)) * own[..., None]
                return added(found, self.mesh)

        _wrap(layer, forward)

    def positions(self, layer: nn.Module) -> None:
        """Each looks its slice up."""
        for module in layer.modules():
            self._place(module, None)

        def forward(original: Callable[[Tensor], Tensor], positions: Tensor) -> Tensor:
            with self._shares_of(layer):
                return original(own_slice(positions, self.mesh))

        _wrap(layer, forward)

    def head(self, layer: Any, even: bool) -> None:
        """Divided as the embedding; `cross_entropy` uses its weight, within `head_ready`."""
        self._place(layer, 0 if even else None)
        if even:
            layer.share = VocabularyShare(self.mesh, layer.out_features // self.mesh.size())

    @contextmanager
    def _shares_of(self, layer: nn.Module) -> Iterator[None]:
        with own_shares(layer):
            yield

    def _place(self, module: nn.Module, dimension: int | None) -> None:
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in self._divided:
                placement: Placement = Replicate()
                if dimension is not None and dimension < parameter.ndim:
                    placement = Shard(dimension)
                tensor = distribute_tensor(parameter.data, self.mesh, [placement], src_data_rank=None)
                self._divided[id(parameter)] = nn.Parameter(tensor, parameter.requires_grad)
            module._parameters[name] = self._divided[id(parameter)]


@contextmanager
def own_shares(layer: nn.Module) -> Iterator[None]:
    """Within it the layer's parameters are plain tensors, this process's part of them.

    What is whole on each process has a gradient that is to be added up: each saw other tokens, or other heads.
    """
    replaced: list[tuple[nn.Module, str, Any]] = []
    for module in layer.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                placements = [Partial() if isinstance(p, Replicate) else p for p in parameter.placements]
                replaced.append((module, name, parameter))
                module._parameters[name] = cast(Any, parameter.to_local(grad_placements=placements))
    try:
        yield
    finally:
        for module, name, parameter in replaced:
            module._parameters[name] = parameter


def _shares(module: nn.Module) -> dict[str, int]:
    if isinstance(module, Attention) and module.config.joint_qk_norm:
        return {}  # one norm over all heads needs all of them
    return getattr(module, "shares", {})


def _wrap(layer: nn.Module, forward: Callable[..., Tensor]) -> None:
    original = layer.forward
    layer.forward = lambda *inputs: forward(original, *inputs)
