"""How fast a model trains on this machine, how fast it could at best, and where the rest of the time goes.

A token costs, forward and backward,

    6 N + 12 layers heads head_dim context      floating-point operations

with N the weights that are multiplied with it (an embedding table that is only looked up is not). The model's FLOP
utilisation, MFU, is the rate at which these are done over the rate that a large square matrix product reaches here.

Source: Chowdhery et al., "PaLM", 2022, arXiv:2204.02311, appendix B. As there, the attention of later tokens, which
causal kernels leave out, is counted as if it were computed: `causal_utilisation` leaves it out.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from penjing.data.batch import TokenBatch
from penjing.device import measure as measure_products
from penjing.device import synchronize
from penjing.errors import ConfigError
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.training import allocator
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine, compile_blocks
from penjing.training.muon import Muon
from penjing.training.objectives import next_token

_OPTIMIZER = "optimizer"
_OUTER = {
    _OPTIMIZER: "optimizer",
    "_ChunkedCrossEntropy": "head and loss",
    "_ChunkedCrossEntropyBackward": "head and loss",
    "_Blocked": "attention",
    "_BlockedBackward": "attention",
}
_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise"}


@dataclass(frozen=True)
class Speed:
    """What training steps took."""

    parameters: int
    """Of the whole model."""
    tokens: int
    """In a step."""
    seconds: float
    """Of a step, the median."""
    slowest: float
    """The slowest step's seconds."""
    flops_per_token: float
    """6 N + attention."""
    causal_flops_per_token: float
    """The same, without the attention of later tokens."""
    peak: float
    """Operations a second of a large matrix product in the same precision."""
    parts: Mapping[str, float]
    """Where a step's time goes: shares that add up to 1."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on."""
        return self.tokens / self.seconds

    @property
    def flops(self) -> float:
        """Operations a second."""
        return self.tokens_per_second * self.flops_per_token

    @property
    def utilisation(self) -> float:
        """MFU: operations over the peak."""
        return self.flops / self.peak

    @property
    def causal_utilisation(self) -> float:
        """The same, without the attention of later tokens."""
        return self.tokens_per_second * self.causal_flops_per_token / self.peak


def flops_per_token(config: LanguageModel.Config, context: int, causal: bool = False) -> float:
    """Floating-point operations of a forward and a backward pass, per token of rows of `context` tokens.

    With `causal`, attention counts only what each token sees, windows too.
    """
    with torch.device("meta"):
        model = config.build()
    weights = sum(weight.numel() for weight in model.parameters())
    lookups = 0 if config.tied else model.embedding.weight.numel()
    if model.learned_positions is not None:
        lookups += sum(weight.numel() for weight in model.learned_positions.parameters())
    mixing = 0.0
    for module in model.modules():
        if isinstance(module, Attention):
            window = min(module.config.window or context, context)
            # the first `window` tokens see 1, 2, ... tokens, the later ones `window` each
            seen = (window * (window + 1) / 2 + (context - window) * window) / context if causal else context
            mixing += 12 * module.heads * module.head_dim * seen
    return 6 * (weights - lookups) + mixing


def measure(
    config: LanguageModel.Config,
    rows: int,
    context: int,
    optimizer: AdamW.Config | Muon.Config,
    *,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool = False,
    steps: int = 10,
    warm_up: int = 3,
    done: Callable[[], object] = lambda: None,
) -> Speed:
    """Trains random weights on random tokens.

    Args:
        config: the model.
        rows: of a batch.
        context: tokens of a row.
        optimizer: what updates the weights.
        device: where.
        dtype: float32 or bfloat16.
        compiled: whether blocks are compiled by torch.compile.
        steps: how many are timed; two more are looked into.
        warm_up: steps before these.
        done: called after each step, for a progress bar.

    Raises:
        ConfigError: the rows are longer than the model's context, a number is below 1, or the device cannot multiply
            in this precision.
    """
    if min(rows, context, steps, warm_up) < 1:
        raise ConfigError("rows, context, steps and warm-up must be at least 1")
    if context > config.context:
        raise ConfigError(f"rows of {context} tokens are longer than the model's context of {config.context}")
    speed = measure_products(device)
    peak = 1e9 * (speed.bf16_gflops if dtype == torch.bfloat16 else speed.fp32_gflops)
    name = str(dtype).removeprefix("torch.")
    if not peak:
        raise ConfigError(f"{speed.device} cannot multiply {name} usefully; use --precision fp32")
    generator = torch.Generator().manual_seed(0)
    model = config.build()
    model.initialise(generator)
    tokens = torch.randint(config.vocab, (rows, context + 1), generator=generator)
    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:], torch.ones(rows, context, dtype=torch.bool))
    engine = Engine(model.train(), next_token, optimizer, device=device, dtype=dtype)
    if compiled:
        compile_blocks(model)

    def step() -> float:
        started = time.perf_counter()
        engine.step([batch]).read()
        synchronize(device)
        done()
        return time.perf_counter() - started

    with allocator.kept():
        for _ in range(warm_up):
            step()
        seconds = [step() for _ in range(steps)]
        parts = _parts(engine, step, device)
    return Speed(
        parameters=sum(weight.numel() for weight in model.parameters()),
        tokens=rows * context,
        seconds=statistics.median(seconds),
        slowest=max(seconds),
        flops_per_token=flops_per_token(config, context),
        causal_flops_per_token=flops_per_token(config, context, causal=True),
        peak=peak,
        parts=parts,
    )


def _parts(engine: Engine, step: Callable[[], float], device: torch.device, steps: int = 2) -> dict[str, float]:
    """Shares of a step's time by what the device does in it; what is left is when it waits for Python."""
    update = engine.optimizer.step

    def named(*args: Any) -> Any:
        with record_function(_OPTIMIZER):
            return update(*args)

    setattr(engine.optimizer, "step", named)  # noqa: B010
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    try:
        with profile(activities=activities, acc_events=True) as profiler:
            wall = sum(step() for _ in range(steps))
    finally:
        setattr(engine.optimizer, "step", update)  # noqa: B010
    spent = defaultdict[str, float](float)
    for event in profiler.events() or ():
        spent[_part_of(event)] += 1e-6 * (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
    order = ("matrix products", "attention", "head and loss", "optimizer", "other operators")
    shares = {part: spent[part] / wall for part in order}
    return {**shares, "waiting for Python": max(0.0, 1 - sum(shares.values()))}


def _part_of(event: Any) -> str:
    above = event
    while above is not None:
        if above.name in _OUTER:
            return _OUTER[above.name]
        above = above.cpu_parent
    if event.name in _PRODUCTS:
        return "matrix products"
    return "attention" if "attention" in event.name else "other operators"
