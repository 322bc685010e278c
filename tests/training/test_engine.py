"""One step: accumulation, clipping, precision."""

import pytest
import torch

from penjing.data.batch import TokenBatch
from penjing.errors import TrainingError
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine, NotFinite, compile_blocks, count_tokens
from penjing.training.objectives import Loss, next_token
from tests.training import tiny


def _engine(model=None, **more):
    return Engine(model or tiny.model(), next_token, tiny.OPTIMIZERS["adamw"], **more)


def _descending(engine):
    """Plain gradient descent with a learning rate of 1, whose steps are the gradient itself."""
    parameters = list(engine.weights.trained.values())
    engine.optimizer = torch.optim.SGD([{"params": parameters, "peak": 1.0}], lr=1.0)
    return engine


def _batches(count: int) -> list[TokenBatch]:
    loader = tiny.CountingLoader()
    return [next(loader) for _ in range(count)]


def _together(batches: list[TokenBatch]) -> TokenBatch:
    return TokenBatch(*(torch.cat([getattr(b, name) for b in batches]) for name in ("tokens", "targets", "mask")))


def test_accumulated_equals_one_large_batch():
    """Three micro-batches with different numbers of counted tokens, against their rows in one: loss, norm and, by plain
    gradient descent, every weight after three steps; 1e-6 (weights are about 0.1).
    """
    apart, whole = _descending(_engine()), _descending(_engine())
    batches = _batches(9)
    assert len({batch.weight for batch in batches[:3]}) > 1
    for start in (0, 3, 6):
        parts = batches[start : start + 3]
        first = apart.step(parts).read()
        second = whole.step([_together(parts)]).read()
        assert first == pytest.approx(second, abs=1e-6)
    for one, other in zip(apart.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_the_loss_is_the_mean_over_counted_tokens():
    """Against torch's cross_entropy on the logits of the counted positions; 1e-6."""
    batch = _batches(1)[0]
    logits = tiny.model()(batch.tokens)[batch.mask]
    expected = torch.nn.functional.cross_entropy(logits, batch.targets[batch.mask])
    assert _engine().step([batch]).read()[0] == pytest.approx(expected.item(), abs=1e-6)


def test_clipping_shortens_the_gradient_and_reports_its_length_before():
    """With plain gradient descent in the optimizer's place, a step is as long as the clip; relative 1e-4."""
    for clip, expected in ((0.01, 0.01), (None, None)):
        engine = _descending(_engine(clip=clip))
        before = [p.detach().clone() for p in engine.model.parameters()]
        _, norm = engine.step(_batches(1)).read()
        moved = torch.cat([(p - b).flatten() for p, b in zip(engine.model.parameters(), before, strict=True)]).norm()
        assert norm > 0.1
        assert moved.item() == pytest.approx(expected or norm, rel=1e-4)


def test_bf16_keeps_float32_masters():
    """Steps of 1e-5 are lost on bf16 weights (spacing 4e-4 at 0.1) but add up in the masters: after 40 of them the
    masters have moved as far as a float32 run's, within 20 %.
    """
    small = AdamW.Config(learning_rate=1e-5, weight_decay=0.0)
    engines = [Engine(tiny.model(), next_token, small, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    start = {name: p.detach().clone() for name, p in tiny.model().named_parameters()}
    assert engines[0].model.embedding.weight.dtype == torch.bfloat16
    moved = []
    for engine in engines:
        for batch in _batches(40):
            engine.step([batch])
        masters = engine.weights.trained
        assert all(master.dtype == torch.float32 for master in masters.values())
        moved.append(sum((masters[name] - start[name]).norm().item() for name in masters))
    assert moved[0] == pytest.approx(moved[1], rel=0.2)
    assert moved[1] > 0
    with engines[0].weights.held():
        assert torch.equal(engines[0].model.embedding.weight, engines[0].weights.trained["embedding.weight"])
    assert engines[0].model.embedding.weight.dtype == torch.bfloat16


def test_bf16_learns_what_fp32_learns():
    """Sixty steps on counting rows: the losses of both end below 1.0 (from 3.2) and within 0.15 of each other."""
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        engine = _engine(dtype=dtype)
        losses = [engine.step([batch]).read()[0] for batch in _batches(60)]
        assert losses[0] > 3.0
        ends.append(sum(losses[-5:]) / 5)
    assert max(ends) < 1.0
    assert abs(ends[0] - ends[1]) < 0.15


def test_frozen_weights_do_not_move():
    model = tiny.model()
    model.embedding.weight.requires_grad_(False)
    before = model.embedding.weight.clone()
    for dtype in (torch.float32, torch.bfloat16):
        engine = _engine(model, dtype=dtype)
        engine.step(_batches(1))
        assert "embedding.weight" not in engine.weights.trained
        engine.weights.restore()
        assert torch.equal(model.embedding.weight, before)


def test_a_loss_that_is_not_finite_changes_no_weight():
    engine = _engine()
    before = [p.detach().clone() for p in engine.model.parameters()]
    engine.objective = lambda model, batch: Loss(model.embedding.weight.sum() * float("nan"), 1)
    with pytest.raises(NotFinite, match="loss is nan"):
        engine.step(_batches(1))
    assert all(torch.equal(p, b) for p, b in zip(engine.model.parameters(), before, strict=True))


def test_a_batch_that_teaches_nothing_is_an_error():
    batch = _batches(1)[0]
    empty = TokenBatch(batch.tokens, batch.targets, torch.zeros_like(batch.mask), origin="file.jsonl, row 7")
    with pytest.raises(TrainingError, match=r"nothing in the batch counts.*file.jsonl, row 7"):
        _engine().step([empty])


def test_refuses_weights_that_are_not_float32():
    with pytest.raises(TrainingError, match=r"embedding.weight is torch.bfloat16"):
        _engine(tiny.model().bfloat16())


def test_padding_is_not_counted_as_tokens():
    documents = torch.tensor([[0, 0, 1, -1], [0, -1, -1, -1]])
    tokens = torch.zeros(2, 4, dtype=torch.long)
    assert count_tokens(TokenBatch(tokens, tokens, tokens > 0, documents=documents)) == 4
    assert count_tokens(TokenBatch(tokens, tokens, tokens > 0)) == 8


@pytest.mark.slow
def test_compiled_blocks_learn_the_same():
    """Ten steps against the uncompiled model; losses within 1e-4."""
    plain, compiled = _engine(), _engine()
    compile_blocks(compiled.model)
    for batch in _batches(10):
        assert compiled.step([batch]).read()[0] == pytest.approx(plain.step([batch]).read()[0], abs=1e-4)
