"""The pipeline as a whole, and `penjing data clean`."""

import json

import pytest
from typer.testing import CliRunner

from penjing.cli import app
from penjing.data.cleaning import Cleaning, Report, clean
from penjing.data.corpus import Document
from penjing.errors import ConfigError, DataError
from tests.data.cleaning.test_minhash import changed, text
from tests.data.cleaning.test_quality import GOOD, ZH

LONG = text(3, 200)
DOCUMENTS = [
    Document(GOOD, "a"),
    Document(LONG, "b"),
    Document("Too short.", "c"),
    Document(GOOD.upper() + "!!", "d"),
    Document(changed(LONG, 100), "e"),
    Document(ZH + "电话13812345678。", "f"),
]


def test_each_document_goes_its_way():
    """By hand: c is short, d has a's words, e is nearly b, f has a number in it."""
    report = Report()
    kept = list(clean(DOCUMENTS, Cleaning(near=0.7), report=report))
    assert [d.origin for d in kept] == ["a", "b", "f"]
    assert kept[2].text == ZH + "电话<PHONE>。"
    assert report.left_out == {"too few words": 1, "copy": 1, "near copy": 1}
    assert report.examples["near copy"][0].startswith("e = b (")
    assert (report.read, report.kept, report.personal) == (6, 3, {"PHONE": 1})
    assert report.characters_kept == sum(len(d.text) for d in kept)
    assert json.loads(json.dumps(report.to_dict()))["left_out"]["copy"] == 1


def test_each_part_can_be_left_out():
    def origins(**parts: object) -> list[str]:
        return [d.origin for d in clean(DOCUMENTS, Cleaning(**{"quality": None, "near": None, **parts}))]

    assert origins(exact=False) == ["a", "b", "c", "d", "e", "f"]
    assert origins() == ["a", "b", "c", "e", "f"]
    (last,) = list(clean(DOCUMENTS[-1:], Cleaning(personal=False)))
    assert "13812345678" in last.text
    with pytest.raises(ConfigError, match=r"near is 0\.3"):
        Cleaning(near=0.3)


def test_pieces_of_a_long_document_are_one():
    pieces = [Document(GOOD[:100], "x", continues=True), Document(GOOD[100:], "x"), Document(GOOD, "y")]
    assert [(d.text, d.origin) for d in clean(pieces)] == [(GOOD, "x")]


@pytest.mark.slow
def test_processes_change_nothing():
    """600 documents in three batches: the same, in the same order, from one process and from two."""
    many = [Document(changed(text(seed % 400), 30 + seed % 7), str(seed)) for seed in range(600)]
    one, two = (list(clean(many, Cleaning(quality=None, near=0.6), workers=workers)) for workers in (1, 2))
    assert one == two
    assert len(one) < 600


def test_the_command_writes_what_is_kept_and_says_what_is_not(tmp_path):
    source = tmp_path / "in.jsonl"
    lines = [json.dumps({"text": d.text}, ensure_ascii=False) for d in DOCUMENTS]
    source.write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    command = ["data", "clean", str(source), "--out", str(out), "--near", "0.7", "--workers", "1"]
    report = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert report["kept"] == 3
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [w["text"] for w in written[:2]] == [GOOD, LONG]
    assert "line 2" in written[1]["origin"]
    shown = CliRunner().invoke(app, command).stdout
    assert "3 of 6 documents kept" in shown
    assert "near copy" in shown

    out.write_text("kept", encoding="utf-8")
    failed = CliRunner().invoke(app, ["data", "clean", str(source), str(tmp_path / "none.txt"), "--out", str(out)])
    assert isinstance(failed.exception, DataError)
    assert out.read_text(encoding="utf-8") == "kept"
