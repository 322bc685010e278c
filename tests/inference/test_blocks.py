"""Whole-block kernels: the same residual stream and the same keys and values as the blocks' own forward pass."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from penjing.inference import blocks
from penjing.inference.engine.engine import Engine
from penjing.inference.engine.runner import PAGE, PagedRunner
from penjing.inference.sampling import Sampling
from penjing.nn.paged import PagedState, Ragged, Span
from penjing.nn.swiglu import SwiGLU
from tests.nn.compositions import MIXERS, MODELS, build

ATOL = {torch.float32: 5e-5, torch.float64: 1e-12}
"""Of values up to 30: sums are taken in another order."""

SLOW = pytest.param(torch.float64, marks=pytest.mark.slow)  # another kernel, to be compiled


def ragged(starts: list[int], counts: list[int], windows: set[int | None]) -> Ragged:
    """Tokens of several texts; each text has five pages of its own."""
    spans = [
        Span(start, count, {window: list(range(5 * text, 5 * text + 5)) for window in windows})
        for text, (start, count) in enumerate(zip(starts, counts, strict=True))
    ]
    return Ragged(spans, PAGE, torch.device("cpu"))


def both_ways(model, counts: list[int]):
    """A pass over `counts` new tokens of texts of 5, 20, ... tokens: the kernel's stream and pages, the usual ones."""
    windows = {block.mixer.config.window for block in model.blocks}
    starts = [5 + 15 * text for text in range(len(counts))]
    made = []
    for directly in (True, False):
        state = PagedState(PagedRunner(model, 400, 4, 64).state.layers)
        generator = torch.Generator().manual_seed(1)
        with torch.inference_mode():
            state.prepare(ragged([0] * len(starts), starts, windows))
            model.hidden(torch.randint(61, (1, sum(starts)), generator=generator), state=state)
            new = torch.randint(61, (1, sum(counts)), generator=generator)
            state.prepare(ragged(starts, counts, windows))
            if directly:
                run = blocks.Blocks(model, state.layers)
                run(new, state.sequence(), blocks.WORTH_COMPILING)
                blocks.wait()
                stream = run(new, state.sequence(), 0)
                assert stream is not None
            else:
                with patch.object(model, "norm", torch.nn.Identity()):
                    stream = model.hidden(new, state=state)
        made.append((stream[0].to(torch.float64), [(p.keys.double(), p.values.double()) for p in state.layers]))
    return made


def plain_models():
    return {name: model for name, model in MODELS.items() if blocks.plain(model)}


def test_it_is_used_for_the_blocks_that_it_computes_and_for_no_others():
    unlike = {"layer norms on queries and keys", "wide heads with biases"}  # the latter has a bias at its output
    assert {name for name in MIXERS if name in plain_models()} == set(MIXERS) - unlike
    other = {"learned positions", "parallel blocks", "norms before and after", "norms after", "squared ReLU"}
    assert not other & set(plain_models())
    assert not blocks.plain(build(mlp=SwiGLU.Config(hidden=40, bias=True)))
    assert not blocks.plain(build().half())
    own = build()
    own.hidden = own.hidden  # set by a user
    assert not blocks.plain(own)
    hooked = build()
    hooked.blocks[0].mlp.register_forward_hook(lambda *_: None)
    assert not blocks.plain(hooked)


@pytest.mark.parametrize("dtype", [torch.float32, SLOW])
@pytest.mark.parametrize("counts", [[1], [1, 1], [3], [2, 1]], ids=str)
def test_the_stream_and_the_pages_are_the_usual_ones(dtype, counts):
    """[3] and [2, 1]: tokens of one text side by side, as guesses are read."""
    for name, model in plain_models().items():
        (ours, our_pages), (theirs, their_pages) = both_ways(build_in(model, dtype), counts)
        close(ours, theirs, dtype, name)
        for mine, usual in zip(our_pages, their_pages, strict=True):
            for a, b in zip(mine, usual, strict=True):
                close(a, b, dtype, name)


def close(a, b, dtype, name):
    torch.testing.assert_close(a, b, rtol=0, atol=ATOL[dtype], msg=lambda message: f"{name}: {message}")


@pytest.mark.slow
@pytest.mark.parametrize("counts", [[1], [2]], ids=str)
def test_in_bfloat16_it_is_nearer_to_exact_than_the_usual_way(counts):
    """The usual way rounds to 8 bits after every operator, the kernel only the keys and values that it stores."""
    errors = torch.zeros(2, dtype=torch.float64)
    for model in plain_models().values():
        rounded = build_in(model, torch.bfloat16)
        (ours, _), (usual, _) = both_ways(rounded, counts)
        _, (exact, _) = both_ways(build_in(rounded, torch.float64), counts)
        errors += torch.stack([(ours - exact).abs().mean(), (usual - exact).abs().mean()])
    assert errors[0] < errors[1] < 0.1 * len(MODELS), errors


def build_in(model, dtype):
    made = model.config.build()
    made.load_state_dict(model.state_dict())
    return made.to(dtype).eval()


def test_the_biases_of_queries_keys_and_values_are_added():
    mixer = MIXERS["wide heads with biases"]
    (ours, _), (theirs, _) = both_ways(build(replace(mixer, output_bias=False)), [2])
    close(ours, theirs, torch.float32, "biases")


def test_an_engine_gives_the_same_text_and_follows_a_weight_that_changes():
    model = build()

    def text(passes: int) -> list[int]:
        engine = Engine(model, tokens=256, seats=1)
        request = engine.add([3, 1, 4], Sampling(temperature=0, max_new_tokens=40))[0]
        with patch.object(blocks, "WORTH_COMPILING", passes), patch.object(blocks, "_compiling", {}):
            while engine.busy:
                engine.step()
                blocks.wait()
        return request.tokens

    assert text(0) == text(1000)
    with torch.no_grad():
        before = text(0)
        model.blocks[0].mlp.down.weight.mul_(-1.0)
        model.blocks[1].mixer.value.weight = torch.nn.Parameter(-model.blocks[1].mixer.value.weight)
    assert text(0) == text(1000) != before
