"""muP: factors by the paper's tables and by Microsoft's `mup`, multipliers folded into weights, steps of one size."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from penjing.data.batch import TokenBatch
from penjing.errors import ConfigError
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm, OffsetRMSNorm, RMSNorm
from penjing.nn.positions import LearnedPositions
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.training.adamw import AdamW, trainable
from penjing.training.engine import Engine
from penjing.training.muon import Muon, update_scale
from penjing.training.objectives import next_token
from penjing.training.scaling_laws.transfer import Factors, Transfer, transfer

VOCAB, CONTEXT = 64, 32
WIDTHS = (32, 64, 128, 256, 512)
ADAMW = AdamW.Config(learning_rate=3e-3)
MUON = Muon.Config(learning_rate=1e-2, precision="fp32", adamw=ADAMW)


def config(width: int, *, tied: bool = True, heads: int | None = None, norm=None, layers: int = 2, **more):
    """A LLaMA whose heads are 16 wide, unless told otherwise; hidden vectors of the perceptron are twice as wide."""
    norm = norm or RMSNorm.Config()
    mixer = Attention.Config(heads=heads or width // 16, rope=Rope.Config(), **more)
    block = Block.Config(mixer=mixer, mlp=SwiGLU.Config(hidden=2 * width), norm=norm)
    return LanguageModel.Config(VOCAB, width, (block,) * layers, CONTEXT, norm, tied=tied, init_std=0.1)


def gpt2(width: int) -> LanguageModel.Config:
    """Learned positions, biases everywhere, a head of its own."""
    mixer = Attention.Config(heads=width // 16, bias=True, output_bias=True)
    block = Block.Config(mixer=mixer, mlp=MLP.Config(hidden=4 * width, bias=True), norm=LayerNorm.Config())
    return LanguageModel.Config(
        VOCAB, width, (block,) * 2, CONTEXT, LayerNorm.Config(), positions=LearnedPositions.Config(), head_bias=True
    )


def started(config: LanguageModel.Config) -> LanguageModel:
    model = config.build()
    model.initialise(torch.Generator().manual_seed(3))
    return model


def batch() -> TokenBatch:
    rows = torch.randint(VOCAB, (4, 17), generator=torch.Generator().manual_seed(5))
    return TokenBatch(rows[:, :-1], rows[:, 1:], torch.ones(4, 16, dtype=torch.bool), origin="chance")


def settings(optimizer: torch.optim.Optimizer, model: LanguageModel) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }


def test_the_factors_are_those_of_the_papers_table():
    """By hand, four times as wide: table 3 for AdamW (r = 4); for Muon 1 / sqrt(4); exact."""
    found = transfer(config(64, tied=False), config(256, tied=False)).factors
    one, matrix = (1, None, 1), (1 / 4, 1 / 2, 1 / 2)
    expected = {"embedding.weight": one, "norm.weight": one, "head.weight": (1 / 4, None, 1 / 4)}
    expected |= {f"blocks.{i}.{part}_norm.weight": one for i in range(2) for part in ("mixer", "mlp")}
    maps = [*(f"mixer.{name}" for name in ("query", "key", "value", "output")), "mlp.gate", "mlp.up", "mlp.down"]
    expected |= {f"blocks.{i}.{map_}.weight": matrix for i in range(2) for map_ in maps}
    assert {name: (f.adamw, f.muon, f.initial) for name, f in found.items()} == expected
    tied = transfer(config(64), config(256)).factors
    assert "head.weight" not in tied
    assert (tied["norm.weight"].adamw, tied["norm.weight"].initial) == (1 / 4, 1 / 4)
    assert tied["embedding.weight"].adamw == tied["embedding.weight"].initial == 1


def test_matrices_that_grow_on_one_side_alone_get_their_own_factors():
    """MLP 64 -> 128 wide, hidden kept at 128: `up` by its inputs, `down` (whose inputs stay) not at all, by AdamW.

    For Muon: rate x 0.2 sqrt(max) / sqrt(fan_out / fan_in), the spectral condition's constant, is the tuned model's.
    """
    wide = config(128)
    kept = replace(wide, layers=tuple(replace(layer, mlp=SwiGLU.Config(hidden=128)) for layer in wide.layers))
    found = transfer(config(64), kept).factors
    assert (found["blocks.0.mlp.up.weight"].adamw, found["blocks.0.mlp.down.weight"].adamw) == (0.5, 1)
    assert found["blocks.0.mlp.down.weight"].initial == 1
    for name, before, after in (("up", (128, 64), (128, 128)), ("down", (64, 128), (128, 128))):
        constants = [update_scale(out, in_) / math.sqrt(out / in_) for out, in_ in (before, after)]
        assert constants[1] * found[f"blocks.0.mlp.{name}.weight"].muon == pytest.approx(constants[0], rel=1e-12)


@pytest.mark.parametrize("shape", [gpt2, lambda width: config(width, tied=False)], ids=["gpt2", "llama"])
def test_equals_microsofts_mup(shape):
    """Learning rates, decay and initial scales of every parameter; the head's are MuReadout's with its multiplier.

    Install it with `pip install --no-deps mup==1.0.0`: what it further asks for is for its plots. rel 1e-9.
    """
    mup = pytest.importorskip("mup")
    base, delta, ours = shape(64).build(), shape(128).build(), started(shape(192))
    theirs = started(shape(192))
    bias = theirs.head.bias is not None
    for model in (base, delta, theirs):
        model.head = mup.MuReadout(model.config.width, VOCAB, bias=bias)
    mup.set_base_shapes(theirs, base, delta=delta, rescale_params=False)
    expected = settings(mup.MuAdamW(theirs.parameters(), lr=3e-3, weight_decay=0.1), theirs)
    factors = transfer(shape(64), shape(192))
    mine = settings(factors.optimizer(ADAMW).build(ours), ours)
    assert mine.keys() == expected.keys()
    readout = theirs.head.width_mult()
    assert readout == 3
    for name, (rate, decay) in expected.items():
        folded = readout if name == "head.weight" else 1
        assert mine[name][0] == pytest.approx(rate / folded, rel=1e-9), name
        if ours.get_parameter(name).ndim == 2:  # vectors do not decay here
            assert mine[name][1] == pytest.approx(decay * folded, rel=1e-9), name

    before = {name: weight.detach().clone() for name, weight in ours.named_parameters()}
    factors.scale(ours)
    for name, weight in theirs.named_parameters():
        if before[name].ndim == 2:
            torch.manual_seed(0)
            drawn = mup.init.normal_(weight, std=1.0).std() / torch.randn(weight.shape).std()
            scaled = ours.get_parameter(name).std() / before[name].std()
            folded = readout if name == "head.weight" else 1
            assert scaled.item() == pytest.approx(drawn.item() / folded, rel=0.02), name
        else:
            torch.testing.assert_close(ours.get_parameter(name), before[name], rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "tolerance"), [("adamw", 1e-9), ("muon", 1e-4)])
@pytest.mark.parametrize(
    ("more", "multiplied"),
    [
        ({}, {"norm.weight": 1 / 2}),
        ({"tied": False}, {"head.weight": 1 / 2}),
        ({"tied": False, "heads": 2}, {"head.weight": 1 / 2, "mixer.query.weight": 2**-0.5}),
        (
            {"heads": 2, "norm": OffsetRMSNorm.Config(), "qk_norm": OffsetRMSNorm.Config()},
            {"norm.weight": 1 / 2, "mixer.query_norm.weight": 2**-0.5},
        ),
    ],
    ids=["tied", "untied", "larger heads", "offset norms"],
)
def test_a_folded_multiplier_trains_like_one_that_is_there(more, multiplied, kind, tolerance):
    """Table 8 with its multipliers written out, in float64: logits / r, scores times 1 / head_dim; five steps.

    Twice as wide; `eps` is nearly 0. Muon orthogonalises in float32.
    """
    small, wide = config(32, **more), config(64, **more)
    adamw = AdamW.Config(learning_rate=3e-3, eps=1e-30)
    tuned = adamw if kind == "adamw" else Muon.Config(learning_rate=1e-2, precision="fp32", adamw=adamw)
    factors = transfer(small, wide)
    old, new = (shape.resolved().layers[0].mixer for shape in (small, wide))
    scores = old.scale * old.head_dim / new.head_dim
    blocks = tuple(replace(block, mixer=replace(block.mixer, scale=scores)) for block in wide.layers)
    theirs = started(replace(wide, layers=blocks)).double()
    theirs.norm.register_forward_hook(lambda _, __, normed: normed / 2)
    folded = {name: theta for name in factors.factors for end, theta in multiplied.items() if _is(name, end)}
    unfolded = Transfer({name: each.times(1 / folded.get(name, 1)) for name, each in factors.factors.items()})

    ours, results = started(wide).double(), []
    for model, rule in ((ours, factors), (theirs, unfolded)):
        rule.scale(model)
        optimizer = rule.optimizer(tuned).build(model)
        results.append([model(batch().tokens).detach()])
        for _ in range(5):
            model.zero_grad()
            next_token(model, batch()).total.backward()
            optimizer.step()
        results[-1].append(model(batch().tokens).detach())
    torch.testing.assert_close(results[0], results[1], rtol=tolerance, atol=tolerance)
    assert (results[0][1] - results[0][0]).abs().max() > 0.1


def _is(name: str, end: str) -> bool:
    """Whether a parameter is that of the whole model, or of any of its blocks."""
    return re.fullmatch(rf"(blocks\.\d+\.)?{re.escape(end)}", name) is not None


def slopes(
    optimizer: AdamW.Config | Muon.Config, fitted: bool, tied: bool, widths: tuple[int, ...]
) -> dict[str, float]:
    """How the change of what layers give, in four steps on one batch, grows with width: its power."""
    places = ("blocks.0.mixer.query", "blocks.1.mixer", "blocks.1.mlp.gate", "blocks.1.mlp", "blocks.1", "head")
    changed: dict[str, list[float]] = {place: [] for place in places}
    for width in widths:
        shape = config(width, tied=tied)
        model, own = started(shape), optimizer
        if fitted:
            rule = transfer(config(64, tied=tied), shape)
            rule.scale(model)
            own = rule.optimizer(optimizer)
        engine = Engine(model, next_token, own)
        before = seen(model, places)
        for _ in range(4):
            engine.step([batch()])
        for place, value in seen(model, places).items():
            changed[place].append(float((value - before[place]).square().mean().sqrt()))
    x = torch.tensor(widths, dtype=torch.float64).log()
    x -= x.mean()
    return {
        place: float((x * torch.tensor(values, dtype=torch.float64).log()).sum() / x.square().sum())
        for place, values in changed.items()
    }


def seen(model: LanguageModel, places: tuple[str, ...]) -> dict[str, Tensor]:
    """What those layers give for the batch."""
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(place).register_forward_hook(lambda _, __, out, place=place: found.update({place: out}))
        for place in places
    ]
    with torch.no_grad():
        model(batch().tokens)
    for hook in hooks:
        hook.remove()
    return found


def check_coordinates(optimizer: AdamW.Config | Muon.Config, tied: bool, widths: tuple[int, ...]) -> None:
    fitted, plain = (slopes(optimizer, rule, tied, widths) for rule in (True, False))
    for place, slope in fitted.items():
        # logits begin at random and lose that part as they should: 1 / sqrt(width)
        assert (-0.4 if place == "head" else -0.15) < slope < 0.15, (place, fitted)
        assert plain[place] > 0.4, (place, plain)


def test_activations_change_as_much_at_every_width():
    """The coordinate check, three widths: powers within 0.15 of 0 (logits down to -0.4), without the rule over 0.4."""
    check_coordinates(ADAMW, True, WIDTHS[:3])


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_activations_change_as_much_from_32_to_512_wide(optimizer, tied):
    """The same over five widths and for both optimizers."""
    check_coordinates(optimizer, tied, WIDTHS)


def test_at_the_tuned_width_nothing_changes():
    """All factors 1; groups, weights and the optimizer's settings are those of the tuned model."""
    shape = config(64)
    rule = transfer(shape, shape)
    assert {(f.adamw, f.initial) for f in rule.factors.values()} == {(1, 1)}
    model, twin = started(shape), started(shape)
    rule.scale(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    for optimizer in (ADAMW, MUON):
        groups = [len(made.build(model).param_groups) for made in (optimizer, rule.optimizer(optimizer))]
        assert groups[0] == groups[1] == (2 if optimizer is ADAMW else 3)


def test_decay_in_a_step_stays_as_it_was():
    """Learning rate times decay, of every matrix: the tuned model's, whatever the width; rel 1e-12."""
    model = started(config(256))
    for optimizer in (ADAMW, MUON):
        rule = transfer(config(64), config(256)).optimizer(optimizer)
        for name, (rate, decay) in settings(rule.build(model), model).items():
            muon = optimizer is MUON and "blocks" in name
            expected = (optimizer.learning_rate if muon else ADAMW.learning_rate) * 0.1
            assert rate * decay == pytest.approx(0 if model.get_parameter(name).ndim == 1 else expected, rel=1e-12)


def test_deeper_models_repeat_the_tuned_ones_blocks():
    """Six layers from two: the factors of layer i are those of layer i modulo 2."""
    found = transfer(config(64), config(128, layers=6)).factors
    for name in trainable(config(128).build()):
        if name.startswith("blocks.1."):
            assert found[name] == found[name.replace("blocks.1.", "blocks.5.")]


def test_embeddings_that_are_multiplied_by_the_widths_root_are_taken_back():
    """Gemma's: embedding times sqrt(256 / 64) = 2 more, so it starts and learns at 1/2, and the norm at 1/4 x 2."""
    small, wide = (replace(config(width), embedding_scale=width**0.5) for width in (64, 256))
    found = transfer(small, wide).factors
    assert found["embedding.weight"] == Factors(adamw=1 / 2, initial=1 / 2)
    assert found["norm.weight"] == Factors(adamw=1 / 2, initial=1 / 2)


def test_what_has_no_rule_is_said():
    with pytest.raises(ConfigError, match=r"only one has 'head\.weight'"):
        transfer(config(64), config(128, tied=False))
    with pytest.raises(ConfigError, match=r"only one has 'learned_positions\.table\.weight'"):
        transfer(config(64), replace(config(128), positions=LearnedPositions.Config()))
    with pytest.raises(ConfigError, match="for another model"):
        transfer(config(64), config(128)).scale(started(gpt2(64)))
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"'head.weight' is .*; it must be a number above 0"):
            AdamW.Config(rates={"head.weight": factor})
        with pytest.raises(ConfigError, match="must be a number above 0"):
            Muon.Config(rates={"blocks.0.mlp.up.weight": factor})
