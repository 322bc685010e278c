"""Checkpoints: whole or absent, few, and readable by others."""

import errno
import hashlib
import json
import shutil

import pytest
import torch
from safetensors import SafetensorError

import penjing.training.tensor_files as tensor_files
from penjing.errors import CheckpointError, TrainingError
from penjing.models.folder import load_model
from penjing.training.saving import save_model
from tests.training import tiny


def _steps(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_the_newest_and_the_best_are_kept(tmp_path):
    """Validation losses fall to step 4 and then rise: the two newest and step 4 are left of ten."""
    losses = iter([5.0, 4.0, 3.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    result = tiny.run(
        tmp_path, steps=10, validate=lambda _: {"loss": next(losses)}, validate_every=1, checkpoint_every=1, keep=2
    )
    assert _steps(tmp_path) == ["step-000004", "step-000009", "step-000010"]
    assert result.best is not None
    assert result.best.name == "step-000004"


def test_a_checkpoint_is_a_model_folder_of_its_own(tmp_path):
    """What `load_model` reads from it is the trained model, weight by weight, exactly; a bf16 run saves fp32 too."""
    trainer = tiny.trainer(tmp_path, precision="bf16")
    result = trainer.run()
    loaded = load_model(result.checkpoint)
    assert loaded.config == trainer.model.config
    assert loaded.embedding.weight.dtype == torch.float32
    for one, other in zip(loaded.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_final_model_can_be_bf16(tmp_path):
    """The float32 weights rounded once, exactly."""
    trainer = tiny.trainer(tmp_path, save_dtype="bf16")
    trainer.run()
    for saved, weight in zip(load_model(tmp_path / "model").parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(saved, weight.bfloat16())


def test_a_half_written_checkpoint_is_ignored_and_said(tmp_path, capsys):
    """What a kill in the middle of a save leaves behind: the run goes on from the one before and removes it."""
    tiny.run(tmp_path, steps=4)
    partial = tmp_path / "checkpoints" / ".step-000005.abcd_123.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    tiny.run(tmp_path, steps=5, display="lines")
    said = capsys.readouterr().out
    assert "step-000005 was being written when the run was killed; it is ignored" in said
    assert "going on from step 4" in said
    assert not partial.exists()


def test_a_checkpoint_that_was_just_being_replaced_comes_back(tmp_path, capsys):
    """A kill between the two renames of a replacement: the old one lies aside, and the run goes on from it."""
    tiny.run(tmp_path, steps=4)
    folder = tmp_path / "checkpoints"
    (folder / ".step-000004.abcd_123.old").mkdir()
    (folder / "step-000004").rename(folder / ".step-000004.abcd_123.old" / "step-000004")
    tiny.run(tmp_path, steps=5, display="lines")
    assert "going on from step 4" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "trainer.json"])
def test_a_truncated_checkpoint_is_passed_over(tmp_path, capsys, file):
    tiny.run(tmp_path, steps=4, checkpoint_every=2)
    path = tmp_path / "checkpoints" / "step-000004" / file
    path.write_bytes(path.read_bytes()[:-50])
    result = tiny.run(tmp_path, steps=6, display="lines")
    said = " ".join(capsys.readouterr().out.split())
    assert "step-000004 is damaged and ignored" in said
    assert "going on from step 2" in said
    assert result.step == 6


def test_damaged_checkpoints_do_not_push_out_whole_ones(tmp_path, capsys):
    """The newest is damaged and one is kept: what is saved before its step must stay, and the damage is said once."""
    tiny.run(tmp_path, steps=6, checkpoint_every=2, keep=3)
    for step in (4, 6):
        (tmp_path / "checkpoints" / f"step-{step:06d}" / "trainer.json").write_text("{")
    result = tiny.run(tmp_path, steps=3, checkpoint_every=1, keep=1, display="lines")
    assert result.checkpoint.name == "step-000003"
    assert result.checkpoint.exists()
    assert " ".join(capsys.readouterr().out.split()).count("step-000006 is damaged") == 1


def test_everyone_who_may_read_the_run_may_read_all_of_it(tmp_path):
    result = tiny.run(tmp_path, steps=1)
    assert len({file.stat().st_mode for file in result.checkpoint.iterdir()}) == 1


@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_earlier_checkpoints_and_is_said(tmp_path, monkeypatch, fault):
    """The save of step 4 fails in the middle; step 2 is there as it was, and with space again the run ends as one that
    never had a full disk, bit for bit.
    """
    write = tensor_files.save_file
    saves = []

    def full(tensors, path, metadata):
        saves.append(path)
        if len(saves) == 4:  # optimizer and random of step 2, optimizer of step 4, then this
            path.write_bytes(b"half")
            raise fault
        write(tensors, path, metadata)

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(TrainingError, match=r"step 4 could not be written .*No space left.*step-000002"):
        tiny.run(tmp_path / "run", steps=6, checkpoint_every=2)
    assert _steps(tmp_path / "run") == ["step-000002"]
    monkeypatch.undo()
    resumed = tiny.run(tmp_path / "run", steps=6, checkpoint_every=2)
    straight = tiny.run(tmp_path / "straight", steps=6, checkpoint_every=2)
    one, other = load_model(resumed.checkpoint), load_model(straight.checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_disk_that_is_full_from_the_start_says_that_nothing_is_saved(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(TrainingError, match="there is none yet"):
        tiny.run(tmp_path, steps=2)
    assert _steps(tmp_path) == []


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    """Its model file swapped for another's by hand: the weight that does not fit is named."""
    tiny.run(tmp_path / "one", steps=2)
    wide = tiny.model(width=32)
    save_model(tmp_path / "wide", wide)
    folder = tmp_path / "one" / "checkpoints" / "step-000002"
    record = json.loads((folder / "trainer.json").read_text())
    for name in ("model.safetensors", "config.json"):
        shutil.copy(tmp_path / "wide" / name, folder / name)
        content = (folder / name).read_bytes()
        record["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
    (folder / "trainer.json").write_text(json.dumps(record))
    with pytest.raises(Exception, match=r"embedding.weight is missing or of another shape"):
        tiny.run(tmp_path / "one", steps=3)


def test_a_file_that_is_missing_is_passed_over(tmp_path, capsys):
    tiny.run(tmp_path, steps=4, checkpoint_every=2)
    (tmp_path / "checkpoints" / "step-000004" / "optimizer.safetensors").unlink()
    tiny.run(tmp_path, steps=5, display="lines")
    said = " ".join(capsys.readouterr().out.split())
    assert "step-000004 is damaged and ignored: optimizer.safetensors is missing" in said
    assert "going on from step 2" in said


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "config.json"])
def test_a_changed_bit_is_passed_over(tmp_path, capsys, file):
    """The file is as long as it was, and could be read: the checksum alone tells."""
    tiny.run(tmp_path, steps=4, checkpoint_every=2)
    path = tmp_path / "checkpoints" / "step-000004" / file
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    tiny.run(tmp_path, steps=5, display="lines")
    said = " ".join(capsys.readouterr().out.split())
    assert f"step-000004 is damaged and ignored: {file} is not what was written" in said
    assert "going on from step 2" in said


def test_a_checkpoint_of_a_newer_penjing_stops_the_run(tmp_path):
    """It is not taken for a damaged one: the run would go on from an earlier step and remove the newer ones."""
    tiny.run(tmp_path, steps=4, checkpoint_every=2)
    record = tmp_path / "checkpoints" / "step-000004" / "trainer.json"
    record.write_text(json.dumps({"format": 2, "penjing": "3.5.1", "anything": "else"}))
    with pytest.raises(CheckpointError, match=r"step-000004 .*format 2, written by Penjing 3.5.1.*up to 1: update it"):
        tiny.run(tmp_path, steps=5)
    assert _steps(tmp_path) == ["step-000002", "step-000004"]


def test_a_checkpoint_from_before_formats_had_numbers_is_read(tmp_path, capsys):
    tiny.run(tmp_path, steps=4)
    path = tmp_path / "checkpoints" / "step-000004" / "trainer.json"
    record = json.loads(path.read_text())
    assert record.pop("format") == 1
    path.write_text(json.dumps(record))
    tiny.run(tmp_path, steps=5, display="lines")
    assert "going on from step 4" in capsys.readouterr().out


@pytest.mark.parametrize("record", ["[]", '{"format": "new"}', '{"format": null}', '{"files": {}}'])
def test_a_record_that_is_none_is_passed_over(tmp_path, capsys, record):
    tiny.run(tmp_path, steps=4, checkpoint_every=2)
    (tmp_path / "checkpoints" / "step-000004" / "trainer.json").write_text(record)
    tiny.run(tmp_path, steps=5, display="lines")
    said = " ".join(capsys.readouterr().out.split())
    assert "step-000004 is damaged and ignored" in said
    assert "going on from step 2" in said
