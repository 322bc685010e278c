"""`penjing data inspect`: what it prints, and its errors."""

import json

import pytest
from typer.testing import CliRunner

from penjing.cli import app
from penjing.errors import ConfigError
from penjing.tokenizer import Tokenizer
from tests.alignment.rules import RuleModel
from tests.data.conftest import BYTES


@pytest.fixture
def talk(tmp_path):
    path = tmp_path / "talk.jsonl"
    turns = [{"role": "user", "content": "[Hi]"}, {"role": "assistant", "content": "[bold]Yo[/bold]"}]
    path.write_text(f"{json.dumps({'messages': turns})}\n" * 3)
    return path


@pytest.fixture
def tokenizer_folder(tmp_path):
    Tokenizer.around(BYTES).save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=True)


def test_a_set_is_shown_with_what_is_learned_in_brackets(talk, tokenizer_folder):
    """Brackets in the text are no markup."""
    found = run("inspect", talk, "--tokenizer", tokenizer_folder, "--context", 64)
    assert found.exit_code == 0
    assert "3 conversations" in found.output
    assert "copies: 2 (line 2 = line 1; line 3 = line 1)" in found.output
    assert "⟦[bold]Yo[/bold]<|im_end|>⟧" in found.output
    assert "[Hi]" in found.output
    assert "training in rows of 64 tokens: 3 conversations (0 cut to the context)" in found.output


def test_a_set_is_shown_as_json(talk, tokenizer_folder):
    found = json.loads(run("inspect", talk, "--tokenizer", tokenizer_folder, "--json", "--sample", 0).output)
    assert found["records"] == 3
    assert found["copies"]["count"] == 2
    assert found["sample"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "64"], "--context needs a tokenizer with a chat template"),
        (["--turns", "some"], "--turns is some; it is all or last"),
        (["--near", "0.2"], "--near is 0.2"),
        (["--sample", "-1"], "--sample is a record's number"),
        (["--tokenizer", "a", "--model", "b"], "--tokenizer and --model are both given"),
    ],
)
def test_options_that_cannot_be_are_errors_of_the_user(talk, arguments, message):
    found = run("inspect", talk, *arguments)
    assert isinstance(found.exception, ConfigError)
    assert message in str(found.exception)


def test_a_set_is_made_by_a_model_and_a_second_call_asks_nothing(tmp_path, monkeypatch):
    """The model answers by rule; documents and seeds are told apart; the report is told in words and as JSON."""
    model = RuleModel(lambda question, _: "Who lives in the old house?" if "one question" in question else "Ann does.")
    monkeypatch.setattr("penjing.commands._loading.load", lambda *_: (None, None))
    monkeypatch.setattr("penjing.inference.local.LocalChatModel", lambda *_, name: model)
    (tmp_path / "note.txt").write_text("Ann lives in the old house.")
    made = run("build", tmp_path / "note.txt", "--model", "tiny", "--out", tmp_path / "set.jsonl")
    assert made.exit_code == 0, made.exception
    assert "1 records of 1 passages or rounds (the documents are through)" in made.output.replace("\n", "")
    assert "left out: 1 question like another" in made.output
    record = json.loads((tmp_path / "set.jsonl").read_text())
    assert [message["content"] for message in record["messages"]] == ["Who lives in the old house?", "Ann does."]
    asked = len(model.asked)
    again = run("build", tmp_path / "note.txt", "--model", "tiny", "--out", tmp_path / "set.jsonl", "--json")
    assert json.loads(again.output)["records"] == 1
    assert len(model.asked) == asked
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(json.dumps({"instruction": "Name a bird.", "instances": []}))
    found = run("build", seeds, "--model", "tiny", "--out", tmp_path / "more.jsonl", "--json")
    assert json.loads(found.output)["left_out"] == {"no list of tasks": 50}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count is 0"),
        (["--similar", "0"], "similar is 0"),
        (["--questions", "0"], "--questions is 0"),
    ],
)
def test_a_set_that_cannot_be_made_is_an_error_of_the_user(tmp_path, arguments, message):
    (tmp_path / "note.txt").write_text("x")
    found = run("build", tmp_path / "note.txt", "--model", "none", *arguments)
    assert isinstance(found.exception, ConfigError)
    assert message in str(found.exception)
