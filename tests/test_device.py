"""Choosing a device and a precision by measurement, and `penjing doctor`."""

import json

import pytest
import torch

from penjing import device
from penjing.commands.doctor import doctor, examine
from penjing.device import Measurement, choose_device, choose_precision, measure, physical_cores
from penjing.errors import ConfigError


def test_measures_once():
    """Both speeds are positive, and the second answer is the first one, not a new measurement."""
    first = measure("cpu")
    assert first.fp32_gflops > 0
    assert first.bf16_gflops >= 0
    assert measure(torch.device("cpu")) is first


@pytest.mark.parametrize(("gain", "expected"), [(2.0, torch.bfloat16), (1.1, torch.float32), (0.002, torch.float32)])
def test_takes_bf16_only_where_it_pays(monkeypatch, gain, expected):
    monkeypatch.setattr(device, "measure", lambda _: Measurement("some processor", 100.0, 100.0 * gain))
    dtype, reason = choose_precision("auto", "cpu")
    assert dtype == expected
    assert f"{gain:.2g} times as fast" in reason


def test_a_device_without_bf16_takes_fp32(monkeypatch):
    monkeypatch.setattr(device, "measure", lambda _: Measurement("old", 100.0, 0.0))
    assert choose_precision("auto", "cpu")[0] == torch.float32


def test_a_slow_bf16_is_not_measured_at_length(monkeypatch):
    """Where the small product is slower than half of fp32's, the large one, which may take minutes, is not tried."""
    tried = []

    def speed(place, dtype, size):
        tried.append((dtype, size))
        return 100.0 if dtype == torch.float32 else 0.2

    monkeypatch.setattr(device, "_gflops", speed)
    assert device._measure.__wrapped__("cpu").bf16_gain == pytest.approx(0.002)
    assert (torch.bfloat16, 1024) not in tried


def test_what_is_asked_for_is_taken():
    assert choose_precision("fp32", "cpu")[0] == torch.float32
    assert choose_precision("bf16", "cpu")[0] == torch.bfloat16
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cpu:0") == torch.device("cpu:0")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quantum", "known: auto, cpu, cuda, mps"),
        ("cuda:99", "cuda"),
        ("auto:0", "'auto:0'; write auto"),
        ("cpu:x", "'cpu:x'; write auto, or a kind"),
        ("cpu:", "'cpu:'; write auto"),
        ("cpu:-1", "'cpu:-1'; write auto"),
        ("cpu:1", "of cpu devices there are only 1 here"),
    ],
)
def test_an_absent_device_is_a_clear_error(name, hint):
    with pytest.raises(ConfigError, match=hint):
        choose_device(name)


def test_an_unknown_precision_is_a_clear_error():
    with pytest.raises(ConfigError, match="did you mean 'fp32'"):
        choose_precision("fp23", "cpu")


def test_doctor_agrees_with_itself(capsys):
    """What it prints as JSON is what the library would choose, and its text names each of these."""
    doctor(json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["machine"]["physical_cores"] == physical_cores() >= 1
    assert facts["speed"]["fp32_gflops"] == round(measure(choose_device()).fp32_gflops, 1)
    dtype, reason = choose_precision("auto", choose_device())
    assert facts["choices"]["precision"] == {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    assert facts["choices"]["because"] == reason
    assert facts["advice"]
    doctor(json=False)
    text = " ".join(capsys.readouterr().out.split())
    assert reason in text
    assert str(torch.__version__) in text


def test_doctor_warns_of_too_many_threads(monkeypatch):
    monkeypatch.setattr(device, "physical_cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert any("OMP_NUM_THREADS=1" in line for line in examine()["advice"])
