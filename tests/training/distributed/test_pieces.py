"""Checkpoints in pieces, read by one process: whole or refused. (That processes write such: `test_runs`.)"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from penjing.cli import app
from penjing.errors import CheckpointError
from penjing.training.checkpoints import PIECES, Checkpoint
from penjing.training.distributed import pieces
from penjing.training.saving import finish
from tests.inference.tiny import tokenizer as tiny_tokenizer
from tests.training import tiny

TOKENIZER = tiny_tokenizer()


def run(out: Path, **more):
    """A run of the tiny model with a tokenizer."""
    model = tiny.model(vocab=TOKENIZER.vocab_size)
    return tiny.run(out, model=model, tokenizer=TOKENIZER, checkpoint_every=2, **more)


def divide(checkpoint: Path) -> None:
    """Makes a checkpoint one as two processes write it: of each matrix each has half the rows, the first has the rest.

    Random generators are not in it, as each process had its own.
    """
    opened = Checkpoint.open(checkpoint)
    weights, optimizer = opened.tensors(tiny.model(vocab=TOKENIZER.vocab_size))
    whole = {f"weights/{name}": tensor.clone() for name, tensor in weights.items()}
    whole |= {f"optimizer/{name}": tensor.clone() for name, tensor in optimizer.items()}
    (checkpoint / PIECES).mkdir()
    for rank in (0, 1):
        tensors, offsets = {}, {}
        for name, tensor in whole.items():
            half = len(tensor) // 2 if tensor.dim() == 2 else 0
            if rank == 0:
                tensors[name], offsets[name] = tensor[half:] if half else tensor, (half, 0)[: tensor.dim()]
            elif half:
                tensors[name], offsets[name] = tensor[:half], (0, 0)
        pieces.Share(tensors, offsets, f"{rank + 1:05d}-of-00002.safetensors").write(checkpoint / PIECES)
    for name in ("model.safetensors", "optimizer.safetensors", "random.safetensors", "trainer.json"):
        (checkpoint / name).unlink()
    finish(checkpoint, {name: value for name, value in opened.record.items() if name != "files"})


def test_a_run_goes_on_from_pieces_as_from_the_whole(tmp_path):
    """No random numbers are drawn in it, so the two ends are equal bit for bit."""
    for name in ("whole", "pieces"):
        run(tmp_path / name, steps=6)
    divide(tmp_path / "pieces" / "checkpoints" / "step-000006")
    ends = [run(tmp_path / name, steps=9).checkpoint for name in ("whole", "pieces")]
    for file in ("model", "optimizer"):
        one, other = (load_file(end / f"{file}.safetensors") for end in ends)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file


def missing(folder: Path) -> None:
    (folder / "00002-of-00002.safetensors").unlink()


def truncated(folder: Path) -> None:
    file = folder / "00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def changed(folder: Path) -> None:
    """One bit of one byte."""
    file = folder / "00002-of-00002.safetensors"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def gone(folder: Path) -> None:
    """As a copy that was broken off leaves it."""
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


DAMAGE = [
    (missing, "00002-of-00002.safetensors is missing"),
    (truncated, "00001-of-00002.safetensors is incomplete"),
    (changed, "00002-of-00002.safetensors is not what was written"),
    (gone, "safetensors is missing"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE)
def test_damaged_pieces_are_passed_over(tmp_path, capsys, damage, words):
    """The run goes on from the checkpoint before, and says why."""
    run(tmp_path, steps=4)
    divide(tmp_path / "checkpoints" / "step-000004")
    damage(tmp_path / "checkpoints" / "step-000004" / PIECES)
    assert run(tmp_path, steps=5, display="lines").step == 5
    said = " ".join(capsys.readouterr().out.split())
    assert words in said
    assert "going on from step 2" in said


@pytest.mark.parametrize(("damage", "words"), DAMAGE)
def test_damaged_pieces_are_not_exported(tmp_path, damage, words):
    run(tmp_path / "run", steps=2)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    divide(checkpoint)
    damage(checkpoint / PIECES)
    said = CliRunner().invoke(app, ["export", str(checkpoint), str(tmp_path / "out")])
    assert isinstance(said.exception, CheckpointError)
    assert words in str(said.exception)
    assert not (tmp_path / "out").exists()


def test_pieces_are_exported_without_those_who_wrote_them(tmp_path):
    """Oracle: the model folder with which the same run ended, every file of it."""
    run(tmp_path / "run", steps=4)
    divide(tmp_path / "run" / "checkpoints" / "step-000004")
    said = CliRunner().invoke(app, ["export", str(tmp_path / "run"), str(tmp_path / "out"), "--json"])
    facts = json.loads(said.output)
    assert (facts["step"], facts["tokenizer"]) == (4, True)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "run" / "model").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected


def test_pieces_of_an_older_penjing_say_that_they_lack_a_config(tmp_path):
    run(tmp_path / "run", steps=2)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    divide(checkpoint)
    record = json.loads((checkpoint / "trainer.json").read_text())
    for name in ("config.json", "trainer.json"):
        (checkpoint / name).unlink()
    finish(checkpoint, {name: value for name, value in record.items() if name not in ("files", "format")})
    said = CliRunner().invoke(app, ["export", str(checkpoint), str(tmp_path / "out")])
    assert "has no config.json: an older Penjing wrote it" in str(said.exception)
    assert run(tmp_path / "run", steps=3).step == 3
