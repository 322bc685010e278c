"""Activations that are computed again: the same gradients, for less memory."""

from collections import Counter

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from penjing.data.batch import TokenBatch
from penjing.errors import ConfigError
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm, RMSNorm
from penjing.nn.positions import LearnedPositions
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.training.engine import Engine, compile_blocks
from penjing.training.objectives import next_token
from penjing.training.recomputation import MODES, mode_of, recompute_activations
from tests.training import tiny

VOCAB = 40


def _model(kind: str, dropout: float = 0.0, layers: int = 2, width: int = 32, context: int = 96) -> LanguageModel:
    """Grouped heads with QK-norm and SwiGLU; capped scores in a window; or biases, LayerNorm and a plain perceptron."""
    norm = RMSNorm.Config()
    mixer = Attention.Config(heads=4, kv_heads=2, rope=Rope.Config(), qk_norm=norm, dropout=dropout)
    mlp, positions = SwiGLU.Config(hidden=3 * width), None
    if kind == "capped":
        mixer = Attention.Config(heads=4, kv_heads=2, rope=Rope.Config(), softcap=3.0, window=17)
    if kind == "gpt2":
        norm, mlp, positions = LayerNorm.Config(), MLP.Config(hidden=4 * width), LearnedPositions.Config()
        mixer = Attention.Config(heads=4, bias=True, output_bias=True, dropout=dropout)
    block = Block.Config(mixer=mixer, mlp=mlp, norm=norm, dropout=dropout)
    model = LanguageModel.Config(
        vocab=VOCAB, width=width, layers=(block,) * layers, context=context, norm=norm, tied=True, positions=positions
    ).build()
    model.initialise(torch.Generator().manual_seed(1))
    return model


def _batch(packed: bool, rows: int = 3, seq: int = 96, number: int = 0) -> TokenBatch:
    """Random tokens, some of which do not count; in documents if packed. 96 tokens are more than one block of 64."""
    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(VOCAB, (rows, seq + 1), generator=generator)
    mask = torch.rand(rows, seq, generator=generator) < 0.7
    documents = (torch.rand(rows, seq, generator=generator) < 0.1).cumsum(1) if packed else None
    return TokenBatch(tokens[:, :-1], tokens[:, 1:], mask, None, documents)


def _steps(kind: str, dtype: torch.dtype, packed: bool, dropout: float, mode: str) -> list[torch.Tensor]:
    """Losses and gradients of two micro-batches, and the random number that comes after them."""
    torch.manual_seed(7)
    model = _model(kind, dropout)
    undo = recompute_activations(model, mode)
    engine = Engine(model, next_token, tiny.OPTIMIZERS["adamw"], dtype=dtype)
    total, *_ = engine._gradients([_batch(packed), _batch(packed, number=1)])
    undo()
    assert not any("forward" in vars(block) for block in model.blocks)
    return [total, *engine.weights.gradients, torch.rand(1)]


@pytest.mark.parametrize("kind", ["llama", "capped", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("packed", "dropout"), [(False, 0.0), (True, 0.0), (True, 0.2)])
def test_recomputed_activations_give_the_same_loss_and_gradients(kind, dtype, packed, dropout):
    """Bit for bit, with dropout too, which draws the same numbers again; and the generator ends where it would have."""
    none, *others = (_steps(kind, dtype, packed, dropout, mode) for mode in MODES)
    assert len(none) > 10
    assert none[1].abs().max() > 0
    for other in others:
        assert all(torch.equal(one, two) for one, two in zip(none, other, strict=True))


def _bytes_held(mode: str, dtype: torch.dtype) -> int:
    """What the memory profiler counts as allocated and not freed between a forward pass's beginning and its end."""
    model = _model("llama", layers=4, width=64, context=256).to(dtype)
    batch = _batch(True, rows=2, seq=256)
    recompute_activations(model, mode)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = next_token(model, batch).total
    assert loss.requires_grad
    return sum(event.self_cpu_memory_usage for event in profiler.events())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_less_memory_is_held_for_the_backward_pass(dtype):
    """Of four layers, selective holds at most two thirds of what none holds, and full at most a third of selective."""
    none, selective, full = (_bytes_held(mode, dtype) for mode in MODES)
    assert 0 < full < selective / 3
    assert selective < none * 2 / 3
    weights = 2 * 256 * 64 * dtype.itemsize  # one residual stream
    assert full > 4 * weights  # each block's input is held: the measure sees what it is to see


class _Count(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.seen = Counter[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_only_full_multiplies_again(dtype):
    """Selective computes as many products of linear maps, and as often fused attention, as none, but more norms."""
    seen, norms = {}, []
    for mode in MODES:
        model = _model("llama").to(dtype)
        norms.append(calls := [])
        for block in model.blocks:
            block.mixer_norm.register_forward_hook(lambda norm, *_, calls=calls: calls.append(norm))
        recompute_activations(model, mode)
        with _Count() as count:
            next_token(model, _batch(True)).total.backward()
        seen[mode] = count.seen
    products = ("aten.mm", "aten.addmm", "mkldnn._linear_pointwise")
    none, selective, full = (sum(seen[mode][name] for name in products) for mode in MODES)
    assert none == selective
    assert full > none + 2  # two blocks run again
    attention = "aten._scaled_dot_product_flash_attention_for_cpu"
    once = 2 if dtype == torch.float32 else 0
    assert [seen[mode][attention] for mode in MODES] == [once, once, 2 * once]
    assert [len(calls) for calls in norms] == [2, 4, 4]


@pytest.mark.parametrize(("setting", "mode"), [(True, "full"), (False, "none"), *((mode, mode) for mode in MODES)])
def test_true_and_false_are_full_and_none(setting, mode):
    assert mode_of(setting) == mode


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ConfigError, match="did you mean 'selective'"):
        mode_of("selectiv")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "selective"])
def test_compiled_blocks_compute_again_too(mode):
    """Losses and gradient norms of three steps within 1e-4 of the uncompiled model that keeps everything."""
    plain = Engine(_model("llama"), next_token, tiny.OPTIMIZERS["adamw"])
    compiled = Engine(_model("llama"), next_token, tiny.OPTIMIZERS["adamw"])
    recompute_activations(compiled.model, mode)
    compile_blocks(compiled.model)
    for number in range(3):
        batch = _batch(False, number=number)
        assert compiled.step([batch]).read() == pytest.approx(plain.step([batch]).read(), abs=1e-4)
