"""Float8 products, emulated: what multiplies in 8 bits is the blocks' linear maps, and everything else is as before."""

import sys

import pytest
import torch
from torch import nn

from penjing.errors import ConfigError
from penjing.models.folder import load_model
from penjing.nn.linear import Linear
from penjing.training import float8
from penjing.training.engine import Engine
from penjing.training.objectives import next_token
from penjing.training.recomputation import recompute_activations
from tests.training import tiny

torchao = pytest.importorskip("torchao.float8", reason="pip install 'penjing[float8]'")
from torchao.float8.float8_linear import Float8Linear  # noqa: E402


def _losses(steps: int, converted: bool, mode: str = "none") -> list[float]:
    torch.manual_seed(1)
    model = tiny.model(width=32)
    if converted:
        float8.convert(model, emulate=True)
    recompute_activations(model, mode)
    engine = Engine(model, next_token, tiny.OPTIMIZERS["adamw"], dtype=torch.bfloat16)
    loader = tiny.CountingLoader()
    return [engine.step([next(loader)]).read()[0] for _ in range(steps)]


def test_the_linear_maps_of_blocks_are_converted_and_nothing_else():
    """All of attention's; of the perceptron with 24 hidden numbers none, since 24 is no multiple of 16."""
    model = tiny.model(width=32)
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    undo = float8.convert(model, emulate=True)
    found = {name for name, module in model.named_modules() if isinstance(module, Float8Linear)}
    assert found == {f"blocks.{i}.mixer.{map_}" for i in (0, 1) for map_ in ("query", "key", "value", "output")}
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    undo()
    assert all(type(m) is not Float8Linear for m in model.modules())
    assert type(model.blocks[0].mixer.query) is Linear


def test_a_converted_map_rounds_as_float8_does():
    """Against the equation, with PyTorch's float8: the scale is 448 over the largest number; 1 % of the largest."""
    model = tiny.model(width=32)
    query = model.blocks[0].mixer.query
    x = torch.randn(48, 32, generator=torch.Generator().manual_seed(2))

    def rounded(t: torch.Tensor) -> torch.Tensor:
        scale = 448 / t.abs().max()
        return (t * scale).to(torch.float8_e4m3fn).float() / scale

    expected = rounded(x) @ rounded(query.weight).T
    exact = x @ query.weight.T
    float8.convert(model, emulate=True)
    found = model.blocks[0].mixer.query(x)
    assert (found - expected).abs().max() < 0.01 * expected.abs().max()
    assert (exact - expected).abs().max() > 0.02 * exact.abs().max()  # rounding shows


def test_it_learns_what_bfloat16_learns():
    """Sixty steps on counting rows: from above 3.0 both end below 1.0 and within 0.15 of each other, but not equal."""
    plain, converted = _losses(60, converted=False), _losses(60, converted=True)
    assert converted[0] > 3.0
    ends = [sum(losses[-5:]) / 5 for losses in (plain, converted)]
    assert max(ends) < 1.0
    assert 0 < abs(ends[0] - ends[1]) < 0.15


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_activations_can_be_computed_again(mode):
    """The losses of three steps are the same, bit for bit."""
    assert _losses(3, converted=True, mode=mode) == _losses(3, converted=True)


def test_what_is_saved_is_an_ordinary_model(tmp_path, monkeypatch):
    """A run's folder holds float32 weights under their usual names, and any load opens it; a resumed run goes on."""
    convert, device = float8.convert, []
    monkeypatch.setattr(float8, "check", device.append)
    monkeypatch.setattr(float8, "convert", lambda model, **more: convert(model, **more, emulate=True))
    trainer = tiny.trainer(tmp_path, steps=4, model=tiny.model(width=32), precision="bf16", float8=True)
    trainer.run()
    assert device == [torch.device("cpu")]
    assert all(type(module) is not Float8Linear for module in trainer.model.modules())
    loaded = load_model(tmp_path / "model")
    assert type(loaded.blocks[0].mixer.query) is Linear
    weights = dict(loaded.named_parameters())
    for name, parameter in trainer.model.named_parameters():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], parameter), name
    with pytest.raises(Exception, match="float8 was true, is now null"):
        tiny.run(tmp_path, steps=8, model=tiny.model(width=32), precision="bf16")
    result = tiny.run(tmp_path, steps=8, model=tiny.model(width=32), precision="bf16", float8=True)
    assert result.step == 8


def test_a_machine_without_float8_says_what_it_takes(tmp_path):
    with pytest.raises(ConfigError, match=r"compute capability 8.9 or later \(Ada, Hopper, Blackwell\)"):
        tiny.run(tmp_path, float8=True)


def test_sizes_that_do_not_fit_are_an_error():
    with pytest.raises(ConfigError, match="multiples of 64, and no block has one"):
        float8.convert(tiny.model(width=32), pieces=4, emulate=True)


def test_a_missing_torchao_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ConfigError, match=r"pip install 'penjing\[float8\]'"):
        float8.convert(nn.ModuleDict({"map": nn.Linear(16, 16)}), emulate=True)
