"""`penjing export`: a checkpoint as a model folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from penjing.cli import app
from penjing.errors import PenjingError
from penjing.models import formats
from penjing.models.folder import load_model
from tests.inference.tiny import tokenizer as tiny_tokenizer
from tests.training import tiny

TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of six steps that was best at step 2, with a tokenizer."""
    out = tmp_path_factory.mktemp("runs") / "one"
    losses = iter([1.0, 2.0, 3.0])
    built = tiny.model(width=16, vocab=TOKENIZER.vocab_size)
    tiny.run(
        out,
        steps=6,
        model=built,
        tokenizer=TOKENIZER,
        validate=lambda _: {"loss": next(losses)},
        validate_every=2,
        checkpoint_every=1,
        keep=2,
    )
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def export(*words: object) -> str:
    said = CliRunner().invoke(app, ["export", *map(str, words)], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return said.output


def same(one: Path, other: Path) -> None:
    """Every tensor and every other file of two model folders is equal."""
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()}
    for name in names - {"model.safetensors"}:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_the_newest_checkpoint_of_a_run_is_the_model_that_the_run_ended_with(run, tmp_path):
    """Oracle: the run's own model folder, tensor by tensor and byte by byte."""
    assert "of step 6" in export(run, tmp_path / "out")
    same(run / "model", tmp_path / "out")


def test_transformers_opens_what_was_exported(run, tmp_path):
    """Its logits are Penjing's within 1e-5, and it finds the tokenizer."""
    transformers = pytest.importorskip("transformers")
    export(run, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    tokens = torch.tensor([TOKENIZER.encode("the cat sat")])
    with torch.no_grad():
        ours = load_model(tmp_path / "out")(tokens)
        assert (theirs(tokens).logits - ours).abs().max() < 1e-5
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert found("the cat sat")["input_ids"] == tokens[0].tolist()


def test_the_best_and_any_other_checkpoint_can_be_had(run, tmp_path):
    facts = json.loads(export(run, tmp_path / "best", "--best", "--json"))
    assert (facts["step"], facts["validation_loss"], facts["tokenizer"]) == (2, 1.0, True)
    step = run / "checkpoints" / "step-000002"
    assert facts["checkpoint"] == str(step)
    export(step, tmp_path / "two")
    same(tmp_path / "best", tmp_path / "two")
    stored = load_file(step / "model.safetensors")
    newest = load_file(run / "model" / "model.safetensors")
    found = load_file(tmp_path / "two" / "model.safetensors")
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    assert not all(torch.equal(found[name], newest[name]) for name in newest)


def test_bfloat16_is_the_float32_weights_rounded_once(run, tmp_path):
    facts = json.loads(export(run, tmp_path / "out", "--dtype", "bf16", "--json"))
    assert facts["dtype"] == "bfloat16"
    whole = load_file(run / "model" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(tensor, whole[name].bfloat16())


def test_damaged_checkpoints_of_a_run_are_passed_over_and_nothing_is_changed(run, tmp_path):
    """The run may be training: what it is writing just now stays."""
    weights = run / "checkpoints" / "step-000006" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (run / "checkpoints" / ".step-000007.abcd_123.partial").mkdir()
    before = sorted(run.rglob("*"))
    said = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out"), "--json"])
    assert json.loads(said.stdout)["step"] == 5
    assert "step-000006 is damaged and ignored" in " ".join(said.stderr.split())
    assert sorted(run.rglob("*")) == before


def test_a_run_without_a_tokenizer_is_exported_without_one(tmp_path):
    tiny.run(tmp_path / "run", steps=1)
    assert "had no tokenizer" in export(tmp_path / "run", tmp_path / "out")
    same(tmp_path / "run" / "model", tmp_path / "out")


def test_the_ending_says_the_format(tmp_path):
    """A GGUF file, whose weights are float16: within its rounding, 2^-11 of each."""
    tiny.run(tmp_path / "run", steps=1)
    assert json.loads(export(tmp_path / "run", tmp_path / "out.gguf", "--json"))["format"] == "a GGUF file (.gguf)"
    ours, theirs = (
        load_model(tmp_path / "run" / "model"),
        formats.load_model(tmp_path / "out.gguf", dtype=torch.float32),
    )
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.allclose(one, other, rtol=2**-11, atol=1e-7), name


def truncated(run: Path) -> list[object]:
    weights = run / "checkpoints" / "step-000006" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    return [weights.parent, "out"]


def changed(run: Path) -> list[object]:
    state = run / "checkpoints" / "step-000006" / "optimizer.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    return [state.parent, "out"]


def newer(run: Path) -> list[object]:
    for record in run.glob("checkpoints/*/trainer.json"):
        record.write_text(json.dumps({**json.loads(record.read_text()), "format": 99, "penjing": "7.1"}))
    return [run, "out"]


def never_validated(run: Path) -> list[object]:
    for record in run.glob("checkpoints/*/trainer.json"):
        record.write_text(json.dumps({**json.loads(record.read_text()), "score": None}))
    return [run, "out", "--best"]


def of_another_kind(run: Path) -> list[object]:
    """As the trainer saves a module that is no language model."""
    folder = run / "checkpoints" / "step-000006"
    for name in ("config.json", "generation_config.json"):
        (folder / name).unlink()
    record = json.loads((folder / "trainer.json").read_text())
    files = {name: fact for name, fact in record["files"].items() if (folder / name).exists()}
    (folder / "trainer.json").write_text(json.dumps({**record, "files": files}))
    return [folder, "out"]


def empty(run: Path) -> list[object]:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    return [run, "out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda run: ["nowhere", "out"], "there is no folder nowhere"),
        (lambda run: [run / "model", "out"], "a model already.*penjing convert"),
        (lambda run: [run.parent, "out"], r"several runs \(run\); name one, such as .*run"),
        (lambda run: [run / "tensorboard", "out"], "is no run .* and no checkpoint"),
        (lambda run: [run / "checkpoints" / "step-000006", "out", "--best"], "chosen among those of a run"),
        (lambda run: [run, "out", "--dtype", "fp64"], "no dtype 'fp64'"),
        (lambda run: [run, "out.pt"], "written as a folder"),
        (lambda run: [run, "out.gguf", "--max-shard-size", "1MB"], "is one file"),
        (lambda run: [run, run / "checkpoints" / "step-000006"], "where the run keeps its checkpoints"),
        (lambda run: [run, run / "checkpoints"], "where the run keeps its checkpoints"),
        (lambda run: [run, run], "holds files but no model"),
        (truncated, "step-000006 is damaged .*model.safetensors is incomplete"),
        (changed, "step-000006 is damaged .*optimizer.safetensors is not what was written"),
        (newer, "format 99, written by Penjing 7.1"),
        (never_validated, "leave out --best"),
        (of_another_kind, "only language models"),
        (empty, "has no whole checkpoint"),
    ],
)
def test_what_cannot_be_exported_is_said(run, tmp_path, monkeypatch, arguments, message):
    """One error each, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    words = arguments(run)
    before = sorted(tmp_path.rglob("*"))
    said = CliRunner().invoke(app, ["export", *map(str, words)])
    assert isinstance(said.exception, PenjingError), said.output
    with pytest.raises(PenjingError, match=message):
        raise said.exception
    assert sorted(tmp_path.rglob("*")) == before
