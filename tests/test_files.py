"""Files and folders that appear whole or not at all, also when a process dies while it writes them."""

from pathlib import Path

import pytest

from penjing.errors import PenjingError
from penjing.files import atomic_folder, tidy


def write(path: Path, text: str | None) -> None:
    with atomic_folder(path) as temporary:
        (temporary / "what").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def between_the_renames(folder: Path) -> None:
    """What a kill between the two renames leaves: the older folder moved away, the new one not yet in its place."""
    write(folder / "model", "old")
    (folder / ".model.abcd_123.old").mkdir()
    (folder / "model").rename(folder / ".model.abcd_123.old" / "model")
    (folder / ".model.efgh4567.partial").mkdir()


def test_a_folder_that_was_moved_away_is_back_before_the_next_is_written(tmp_path):
    """Also where that one fails: what was there before is untouched."""
    between_the_renames(tmp_path)
    with pytest.raises(TypeError):
        write(tmp_path / "model", None)
    assert (tmp_path / "model" / "what").read_text() == "old"
    write(tmp_path / "model", "new")
    assert (tmp_path / "model" / "what").read_text() == "new"


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_second_rename_that_fails_is_undone(tmp_path, monkeypatch, fault):
    write(tmp_path / "model", "old")
    rename = Path.replace

    def fail_once(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise fault
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    with pytest.raises((PenjingError, KeyboardInterrupt)):
        write(tmp_path / "model", "new")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "what").read_text() == "old"


def test_tidying_puts_back_what_was_moved_away_and_removes_the_rest(tmp_path):
    between_the_renames(tmp_path)
    (tmp_path / ".train.jsonl.abcd1234.partial").write_text("half")
    (tmp_path / ".tokens.abcd1234.old" / "tokens").mkdir(parents=True)
    (tmp_path / "tokens").mkdir()  # replaced, but the older one not yet removed
    for other in (".lock", ".model.partial", "notes.abcd1234.partial"):
        (tmp_path / other).write_text("not ours")
    tidy(tmp_path)
    assert names(tmp_path) == [".lock", ".model.partial", "model", "notes.abcd1234.partial", "tokens"]
    assert (tmp_path / "model" / "what").read_text() == "old"


def test_folders_with_names_that_begin_alike_are_kept_apart(tmp_path):
    """Writing `model` leaves alone what belongs to `model.abcd1234`."""
    (tmp_path / ".model.abcd1234.efgh5678.old" / "model.abcd1234").mkdir(parents=True)
    write(tmp_path / "model", "new")
    assert names(tmp_path) == [".model.abcd1234.efgh5678.old", "model"]


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    """`penjing convert model.bin model.bin` must not end with the weights gone."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    with pytest.raises(PenjingError, match=r"model\.bin is a file"), atomic_folder(tmp_path / "model.bin"):
        raise AssertionError("nothing may be written")
    assert (tmp_path / "model.bin").read_bytes() == b"weights"
