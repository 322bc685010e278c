"""Several processes: activations computed again, precisions, weights kept on the CPU, models begun without memory."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from penjing.models.folder import save
from penjing.training.distributed.pipeline import rows_of
from penjing.training.engine import Engine
from penjing.training.objectives import next_token
from penjing.training.recomputation import MODES
from tests.training.distributed.memory import CASE, LARGE, large_batch
from tests.training.distributed.work import OPTIMIZERS, Case, finish, launch

MODULE = "tests.training.distributed.memory"


def found_by(count: int, what: str, **settings: Any) -> list[Any]:
    """What each of so many processes found."""
    ends = finish(launch(count, what, module=MODULE, **settings), 600)
    assert [code for code, _, _ in ends] == [0] * count, ends[0][2][-3000:]
    return [json.loads(out.splitlines()[-1]) for _, out, _ in ends]


@pytest.mark.slow
def test_activations_are_computed_again_on_every_layout():
    """With dropout, the loss and every gradient are those of keeping everything, bit for bit; and less is held."""
    layouts = [{axis: 2} for axis in ("shard", "pipeline", "tensor", "context")]
    for everything in found_by(2, "recompute", layouts=layouts):
        assert len(everything) == 2 * len(layouts)
        for layout, found in everything.items():
            for mode in MODES:
                assert found[mode]["loss"] == found["none"]["loss"] > 1
                assert found[mode]["difference"] == 0, (layout, mode)
                assert found[mode]["size"] > 0.1
            if "shard" in layout:
                none, selective, full = (found[mode]["bytes"] for mode in MODES)
                assert full < selective < none


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_bfloat16_computes_float32_adds_up_and_remembers(optimizer):
    """Blocks compute in bfloat16; gradients are added up over processes, and weights kept, in float32.

    The oracle is one process that adds up the two halves' bfloat16 gradients in float32: exactly the same sums, of
    which most would be rounded by a sum in bfloat16. Keeping the weights on the CPU changes nothing there.
    """
    case = replace(CASE, optimizer=optimizer)
    engine = Engine(case.model(), next_token, OPTIMIZERS[optimizer], dtype=torch.bfloat16)
    halves = [rows_of(case.batch(number), 2) for number in range(2)]
    engine._gradients(halves[0])
    first = {name: master.grad.clone() for name, master in engine.weights.trained.items()}
    engine.weights.publish()
    alone = [engine.step(half).read() for half in halves]
    sharded, offloaded = (found_by(2, "precision", offload=offload, optimizer=optimizer) for offload in (False, True))
    for found in sharded:
        assert found["computing"] == ["torch.bfloat16"]
        assert found["masters"] == found["gradients"] == found["states"] == ["torch.float32"]
        assert found["first"].keys() == first.keys()
        for name, gradient in first.items():
            assert torch.equal(torch.tensor(found["first"][name]), gradient), name
        rounded = torch.cat([(g != g.bfloat16().float()).flatten() for g in first.values()]).float().mean()
        assert rounded > 0.5
        for (loss, norm), ours, length in zip(alone, found["losses"], found["norms"], strict=True):
            assert ours == pytest.approx(loss, abs=1e-6)
            assert length == pytest.approx(norm, rel=1e-5)
        for name, master in engine.weights.trained.items():
            torch.testing.assert_close(torch.tensor(found["weights"][name]), master.detach(), rtol=0, atol=1e-5)
    assert offloaded == sharded
    assert {device for found in offloaded for device in found["devices"]} == {"cpu"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "layouts"),
    [
        (2, [{axis: 2} for axis in ("data", "shard", "tensor", "pipeline", "context")]),
        (4, [{"shard": 2, "tensor": 2}, {"pipeline": 2, "interleave": 2, "data": 2}]),
    ],
)
def test_a_model_that_begins_without_memory_has_the_same_weights(tmp_path, count, layouts):
    """On every layout, every weight of every process equals a single process's, bit for bit: drawn by the model itself,
    by layers that draw right into their weights, or read from a folder; and the first loss is the same, within 1e-5.
    """
    save(tmp_path / "model", CASE.model())
    everyone = found_by(count, "begin", layouts=layouts, folder=str(tmp_path / "model"))
    for found in everyone:
        assert len(found) == len(layouts) * 5  # two models, of which one lies in the folder, too
        for what, (weights, differ, _) in found.items():
            assert weights > 10, what
            assert not differ, what
    for case, way in ((CASE, "initialise"), (CASE, "folder"), (Case(family="gpt2", vocab=25), "initialise")):
        model = case.model()
        if way == "initialise":
            model.initialise(torch.Generator().manual_seed(3))
        loss, _ = Engine(model, next_token, OPTIMIZERS[case.optimizer]).step([case.batch(0)]).read()
        told = [found[key][2] for found in everyone for key in found if key.endswith(f"{case.family} {way}")]
        assert len(told) == count * len(layouts)
        assert max(abs(other - loss) for other in told) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure memory")
def test_a_process_never_holds_more_than_its_share_and_a_tensor():
    """Of 217 MiB of weights in two pieces: beside its piece a process needs room for the largest tensor, 31 MiB, a
    half of it while that is cut off, and 24 MiB for all else; and the C library may keep as much as the tensor again
    after it is freed. A model that begins whole needs more than all weights.

    The losses of two steps are those of one process, within 1e-4.
    """
    with torch.device("meta"):
        sizes = [parameter.numel() * 4 for parameter in LARGE.build().parameters()]
    assert sum(sizes) > 200 * 2**20
    deferred, plain = (found_by(2, "peak", deferred=deferred) for deferred in (True, False))
    for found in deferred:
        assert found["share"] == pytest.approx(sum(sizes) / 2, rel=0.01)
        assert found["grown"] < found["share"] + 2.5 * max(sizes) + 24 * 2**20 < sum(sizes)
    assert all(found["grown"] > sum(sizes) for found in plain)
    model = LARGE.build()
    model.initialise(torch.Generator().manual_seed(5))
    engine = Engine(model, next_token, OPTIMIZERS["adamw"])
    losses = [engine.step([large_batch(number)]).read()[0] for number in range(2)]
    for found in (*deferred, *plain):
        assert found["losses"] == pytest.approx(losses, abs=1e-4)
