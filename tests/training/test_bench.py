"""What a training step costs, counted; and a measurement of a model small enough for a test."""

import json

import pytest
import torch
from typer.testing import CliRunner

from penjing.cli import app
from penjing.errors import ConfigError
from penjing.stages.settings import Model
from penjing.training.adamw import AdamW
from penjing.training.bench import flops_per_token, measure

SMALL = Model(family="llama", width=32, layers=2, heads=2, hidden=64, context=16).config(50)


def test_operations_of_gpt2_are_those_of_palms_formula():
    """124M: 6 (all weights but the position table) + 12 layers width context."""
    config = Model(family="gpt2", width=768, layers=12, heads=12, context=1024).config(50304)
    per_layer = 12 * 768**2 + 13 * 768  # q, k, v, output and two of four times the width; their biases, two norms
    weights = 50304 * 768 + 12 * per_layer + 2 * 768
    assert flops_per_token(config, 1024) == 6 * weights + 12 * 12 * 768 * 1024
    assert flops_per_token(config, 1024, causal=True) == 6 * weights + 12 * 12 * 768 * 1025 / 2


def test_operations_equal_those_that_pytorch_counts():
    """Its counter sees the products with weights in both passes, and not the attention of a CPU; vectors multiply
    nothing.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = SMALL.build()
    tokens = torch.zeros(3, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    vectors = sum(weight.numel() for weight in model.parameters() if weight.ndim == 1)
    attention = 2 * 12 * 32 * 16
    ours = 3 * 16 * (flops_per_token(SMALL, 16) - attention - 6 * vectors)
    assert counter.get_total_flops() == ours


def test_a_table_that_is_only_looked_up_costs_nothing():
    untied = Model(family="llama", width=32, layers=2, heads=2, hidden=64, context=16, tied=False).config(50)
    assert flops_per_token(untied, 16) == flops_per_token(SMALL, 16)


def test_shares_of_a_step_add_up():
    seen = []
    speed = measure(
        SMALL,
        4,
        16,
        AdamW.Config(),
        device=torch.device("cpu"),
        dtype=torch.float32,
        steps=2,
        warm_up=1,
        done=lambda: seen.append(1),
    )
    assert len(seen) == 1 + 2 + 2
    assert speed.tokens == 64
    assert sum(speed.parts.values()) == pytest.approx(1, abs=0.02)
    assert all(share > 0 for part, share in speed.parts.items() if part != "waiting for Python")
    assert 0 < speed.causal_utilisation < speed.utilisation < 1


def test_rows_beyond_the_context_are_refused():
    with pytest.raises(ConfigError, match="longer than the model's context"):
        measure(SMALL, 1, 17, AdamW.Config(), device=torch.device("cpu"), dtype=torch.float32)


def test_the_command_prints_json():
    small = ["--width", "32", "--layers", "1", "--heads", "2", "--vocab", "50", "--context", "8", "--rows", "2"]
    told = CliRunner().invoke(app, ["bench", "train", *small, "--steps", "1", "--precision", "fp32", "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["dtype"] == "float32"
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])
