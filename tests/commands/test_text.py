"""Text from outside: what is no UTF-8 is an error with its place, and text is never read as markup."""

import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import penjing
from penjing.cli import app
from penjing.commands import _text
from penjing.commands.generate import _as_dict
from penjing.errors import DataError
from penjing.inference.generate import Completion
from tests.inference import tiny
from tests.tokenizer.test_stream import sentencepiece

TOKENIZER = tiny.tokenizer()


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a random model."""
    place = tmp_path_factory.mktemp("model") / "tiny"
    penjing.save(place, tiny.model(TOKENIZER.vocab_size, context=64), TOKENIZER)
    return place


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "nowhere", "-"],
        ["generate", "nowhere", "caf\udce9"],
        ["tokenizer", "encode", "MODEL"],
        ["tokenizer", "encode", "MODEL", "caf\udce9"],
        ["tokenizer", "encode", "MODEL", "--file", "FILE"],
        ["tokenizer", "decode", "nowhere"],
        ["chat", "MODEL", "--precision", "fp32"],
        ["chat", "MODEL", "--precision", "fp32", "--system", "caf\udce9"],
    ],
)
def test_what_is_no_utf8_is_refused(folder, tmp_path, words):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    places = {"MODEL": str(folder), "FILE": str(tmp_path / "latin.txt")}
    result = CliRunner().invoke(app, [places.get(word, word) for word in words], input=b"caf\xe9\n")
    assert isinstance(result.exception, DataError)
    assert "not UTF-8" in str(result.exception)


def test_lines_come_one_by_one_and_the_wrong_one_is_named(monkeypatch):
    typed(monkeypatch, "盆景\r\n".encode() + b"two\nthr\xe9e\n")
    lines = _text.standard_lines()
    assert [next(lines), next(lines)] == ["盆景\r\n", "two\n"]
    with pytest.raises(DataError, match=r"line 3 of the standard input is not UTF-8 text: byte 3 is 0xE9"):
        next(lines)


def test_no_standard_input_is_an_empty_one(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert (_text.standard_input(), list(_text.standard_lines())) == ("", [])


def test_the_name_of_a_text_is_shown_as_it_is(folder, tmp_path):
    """Square brackets are no markup and colons no emoji."""
    file = tmp_path / "notes[old]:smile:.txt"
    file.write_text("the end in an END")
    result = CliRunner().invoke(app, ["eval", str(folder), "--data", str(file)])
    assert result.exit_code == 0, result.exception
    assert f"{file}: " in result.stdout


def test_a_token_among_log_probabilities_keeps_its_space():
    """SentencePiece drops the first space of a text, but what a model continues is no text's beginning."""
    tokenizer = sentencepiece()
    id = tokenizer.token_id("▁a") or tokenizer.token_id(" a")
    found = _as_dict(Completion((id,), "length", logprobs=(-1.0,), top_logprobs=(((id, -1.0),),)), tokenizer)
    entry = json.loads(json.dumps(found))["logprobs"][0]
    assert (entry["token"], entry["top"][0]["token"]) == (" a", " a")
