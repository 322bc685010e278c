"""The model as a whole: initialisation, counts, limits."""

import copy
import math

import pytest
import torch

from penjing.errors import ConfigError
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.cross_entropy import cross_entropy
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm
from penjing.nn.positions import LearnedPositions
from penjing.nn.rope import Rope

from ..nn.compositions import MODELS, build, tokens


def config(**changes) -> LanguageModel.Config:
    norm = LayerNorm.Config()
    block = Block.Config(mixer=Attention.Config(heads=4, bias=True, output_bias=True), mlp=MLP.Config(256), norm=norm)
    return LanguageModel.Config(
        **{
            "vocab": 300,
            "width": 64,
            "layers": (block,) * 8,
            "context": 32,
            "norm": norm,
            "positions": LearnedPositions.Config(),
            **changes,
        }
    )


def test_weights_come_from_the_generator_alone():
    """The same seed gives the same weights whatever the global random state; another seed gives others."""
    first, again, other = (config().build() for _ in range(3))
    first.initialise(torch.Generator().manual_seed(1))
    torch.randn(1000)
    again.initialise(torch.Generator().manual_seed(1))
    other.initialise(torch.Generator().manual_seed(2))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mixer": Attention.Config(heads=4, bias=True, qk_norm=LayerNorm.Config(), rope=Rope.Config())},
        {"norm": LayerNorm.Config(), "tied": True, "head_bias": True, "positions": LearnedPositions.Config()},
        {"mlp": MLP.Config(hidden=8), "head_bias": True, "zero_outputs": True},
    ],
)
def test_a_trained_model_initialised_again_is_a_fresh_one(changes):
    """Every weight, norms and biases too, after all were drawn at random."""
    trained = build(**changes)
    fresh = trained.config.build()
    for model in (trained, fresh):
        model.initialise(torch.Generator().manual_seed(1))
    for (name, a), b in zip(trained.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_bfloat16_model_is_initialised_to_the_rounded_float32_weights():
    exact, rounded = config().build(), config().build().bfloat16()
    for model in (exact, rounded):
        model.initialise(torch.Generator().manual_seed(1))
    for a, b in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(a.bfloat16(), b)


def test_building_a_model_leaves_the_global_random_state_alone_and_gives_even_odds():
    """Before `initialise` all logits are 0; building draws nothing."""
    before = torch.get_rng_state()
    model = config().build()
    assert torch.equal(torch.get_rng_state(), before)
    assert model(torch.tensor([[1, 2]])).abs().max() == 0


def test_standard_deviations_are_those_of_gpt2():
    """0.02, and 0.02 / sqrt(2 * 8) for what writes to the residual stream, each within 4 %; biases 0, norms 1."""
    model = config(init_std=0.02).build()
    model.initialise(torch.Generator().manual_seed(0))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert weight.abs().max() == 0, name
        elif "norm" in name:
            assert torch.equal(weight, torch.ones_like(weight)), name
        else:
            expected = 0.02 / 4 if ".output." in name or ".down." in name else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.04), name


def test_blocks_that_start_as_zero_pass_the_embedding_through():
    model = config(zero_outputs=True).build().eval()
    model.initialise(torch.Generator().manual_seed(0))
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    expected = model.norm(model.embedding(ids) + model.learned_positions(torch.arange(5)[None]))
    assert torch.equal(model.hidden(ids), expected)


def test_the_loss_at_the_start_is_that_of_even_odds():
    """ln(300) = 5.704 nats a token within 2 %."""
    model = config().build()
    model.initialise(torch.Generator().manual_seed(0))
    ids = torch.randint(300, (8, 32))
    loss = cross_entropy(model.hidden(ids), model.head, torch.randint(300, (8, 32))) / ids.numel()
    assert loss.item() == pytest.approx(math.log(300), rel=0.02)


def test_parameters_are_counted_once():
    """By hand: 12 width^2 + 13 width a GPT-2 block, 2 width for the last norm, 300 + 32 rows of embeddings."""
    blocks = 8 * (12 * 64**2 + 13 * 64) + 2 * 64
    tied, untied = config(tied=True).build(), config().build()
    assert tied.parameter_count(embeddings=False) == untied.parameter_count(embeddings=False) == blocks
    assert tied.parameter_count() == blocks + (300 + 32) * 64
    assert untied.parameter_count() == blocks + (300 + 32 + 300) * 64


def test_a_text_longer_than_learned_positions_reach_is_an_error():
    """33 tokens at once, or the 33rd in a cache, for a context of 32."""
    model = config().build().eval()
    ids = torch.zeros(1, 33, dtype=torch.long)
    with pytest.raises(ConfigError, match="context of 32"):
        model(ids)
    state = model.new_state(1)
    model(ids[:, :32], state=state)
    with pytest.raises(ConfigError, match="context of 32"):
        model(ids[:, 32:], state=state)
    assert state.length == 32


def test_dropout_works_in_training_only():
    """Embedding, attention and residual dropout, each alone, changes training passes and no inference pass."""
    block = config().layers[0]
    for changes in (
        {"embedding_dropout": 0.3},
        {"layers": (Block.Config(mixer=block.mixer, mlp=block.mlp, norm=block.norm, dropout=0.3),)},
        {"layers": (Block.Config(Attention.Config(heads=4, dropout=0.3), block.mlp, block.norm),)},
    ):
        model = config(**changes).build()
        model.initialise(torch.Generator().manual_seed(0))
        ids = torch.tensor([[3, 1, 4, 1, 5]])
        assert not torch.equal(model(ids), model(ids))
        model.eval()
        assert torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("field", ["vocab", "width", "context"])
def test_refuses_a_model_of_nothing(field):
    with pytest.raises(ConfigError, match="at least 1"):
        config(**{field: 0}).build()


def test_a_new_state_has_room_as_asked_and_grows():
    model = config().build().eval()
    small, large = model.new_state(2, 4), model.new_state(2, 32)
    assert large.nbytes == 8 * small.nbytes == 8 * (8 * 2 * 2 * 4 * 64 * 4)  # layers, 2, rows, tokens, width, bytes
    model(torch.zeros(2, 5, dtype=torch.long), state=small)
    assert small.layers[0].keys.shape[2] == 8


@pytest.mark.parametrize("name", ["learned positions", "grouped heads", "norms on queries and keys", "capped scores"])
def test_autocast_gives_float32_logits_and_gradients_near_those_of_float32(name):
    """Float32 weights, bfloat16 autocast: logits within 3 %, with a cache too, gradients within 10 %, in norm."""
    model, ids = copy.deepcopy(MODELS[name]), tokens(2, 16)
    exact = model(ids).detach()
    cross_entropy(model.hidden(ids), model.head, ids).backward()
    wanted = {key: weight.grad.clone() for key, weight in model.named_parameters()}
    model.zero_grad()
    state = model.new_state(2)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
        cached = torch.cat([model(ids[:, :9], state=state), model(ids[:, 9:], state=state)], dim=1)
        cross_entropy(model.hidden(ids), model.head, ids).backward()
    for mine in (logits, cached):
        assert mine.dtype == torch.float32
        assert (mine - exact).norm() < 0.03 * exact.norm()
    found = {key: weight.grad for key, weight in model.named_parameters()}
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    error = sum((found[key] - wanted[key]).square().sum() for key in wanted)
    assert error < 0.1**2 * sum(gradient.square().sum() for gradient in wanted.values())


def test_the_model_can_be_compiled():
    """Traced whole by torch.compile (the tracing alone, without code generation): same loss, same gradients."""
    model, ids = copy.deepcopy(MODELS["norms on queries and keys"]), tokens(2, 16)
    cross_entropy(model.hidden(ids), model.head, ids).backward()
    wanted = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    compiled = torch.compile(model.hidden, backend="aot_eager", fullgraph=True)
    cross_entropy(compiled(ids), model.head, ids).backward()
    for weight, expected in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(weight.grad, expected)
