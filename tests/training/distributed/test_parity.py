"""Every layout of processes takes the same steps as one process does."""

import json
from dataclasses import asdict

import pytest
import torch

from penjing.training.engine import Engine
from penjing.training.objectives import next_token
from tests.training.distributed.work import OPTIMIZERS, Case, finish, launch, losses

STEPS = 20
PLAIN = Case()
HARD = Case(tied=True, vocab=25, optimizer="muon", accumulate=2, packed=True)
"""An odd vocabulary, tied; two micro-batches a step; documents packed into rows."""
GPT2 = Case(family="gpt2", accumulate=2)
NEAR = Case(window=7, softcap=2.0, packed=True)

TWO = [{axis: 2} for axis in ("data", "shard", "tensor", "pipeline", "context")]
FOUR = [
    {"shard": 2, "tensor": 2},
    {"pipeline": 2, "data": 2},
    {"data": 2, "shard": 2},
    {"context": 2, "tensor": 2},
    {"pipeline": 2, "context": 2},
    {"pipeline": 2, "tensor": 2},
    {"pipeline": 2, "interleave": 2, "shard": 2},
]


def compare(count, meshes, cases, steps=STEPS):
    """Losses of all steps within 1e-4 of one process's, gradient norms within a thousandth.

    Sums in float32 come in another order, and AdamW makes a step of full size of a gradient that is nothing but that.
    """
    ends = finish(launch(count, "compare", meshes=meshes, cases=[asdict(case) for case in cases], steps=steps))
    assert [code for code, _, _ in ends] == [0] * count, ends[0][2][-3000:]
    everyone = [json.loads(out.splitlines()[-1]) for _, out, _ in ends]
    assert all(found == everyone[0] for found in everyone)  # all processes know the same
    assert len(everyone[0]) == len(meshes) * len(cases)
    for case in cases:
        engine = Engine(case.model(), next_token, OPTIMIZERS[case.optimizer])
        alone = losses(case, engine, steps)
        with torch.no_grad():
            loss = next_token(engine.model.eval(), case.batch(99, rows=3))
        alone.append((float(loss.total) / loss.weight, 0.0))
        for name, found in everyone[0].items():
            if name.endswith(json.dumps(asdict(case))):
                loss, norm = (torch.tensor(found) - torch.tensor(alone)).abs().T
                assert loss.max() < 1e-4, f"{name}: losses differ by {loss.max():.1e}"
                assert (norm / torch.tensor(alone)[:, 1].clamp(min=1)).max() < 1e-3, f"{name}: norms differ"


def test_data_parallel_steps_equal_one_process():
    """Two processes, each with half of the rows."""
    compare(2, [{"data": 2}], [HARD], steps=5)


@pytest.mark.slow
def test_two_processes_equal_one():
    """Data, shards, tensors, pipeline and context, one at a time."""
    compare(2, TWO, [PLAIN, HARD, GPT2, NEAR])


@pytest.mark.slow
def test_products_of_layouts_equal_one_process():
    """Two kinds at a time, among them an interleaved pipeline."""
    compare(4, FOUR, [PLAIN, HARD])
