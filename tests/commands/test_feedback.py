"""`penjing data judge` and `penjing data revise`: the files that they write and what they tell."""

import json

import pytest

from penjing.data import conversations, preferences
from penjing.errors import ConfigError, DataError
from tests.alignment.rules import RuleModel
from tests.alignment.test_feedback import answerer, by_length, reviser
from tests.commands.test_instructions import run


@pytest.fixture
def talk(tmp_path):
    lines = [json.dumps({"instruction": f"Say {number}.", "output": "old"}) for number in range(6)]
    (tmp_path / "talk.jsonl").write_text("\n".join(lines))
    return tmp_path / "talk.jsonl"


@pytest.fixture
def model(monkeypatch):
    """Answers, judges and revises by the rules of the tests of these."""

    def rule(question, sampling):
        if "Answer A" in question:
            return by_length(question, sampling)
        return reviser(question, sampling) if "principle" in question else answerer(question, sampling)

    made = RuleModel(rule)
    monkeypatch.setattr("penjing.commands._loading.load", lambda *_: (None, None))
    monkeypatch.setattr("penjing.inference.local.LocalChatModel", lambda *_, name: made)
    return made


def test_answers_are_judged_and_the_report_says_how(talk, model, tmp_path):
    out = tmp_path / "pairs.jsonl"
    found = run("judge", talk, "--model", "tiny", "--answers", 3, "--limit", 4, "--out", out)
    assert found.exit_code == 0, found.exception
    pairs = list(preferences.comparisons(out))
    assert f"{len(pairs)} records of 4 prompts" in found.output
    assert f"decided: {len(pairs)}" in found.output
    assert "the first answer shown was preferred in 50% of the votes" in found.output
    again = run("judge", talk, "--model", "tiny", "--answers", 3, "--limit", 4, "--out", out, "--json")
    assert json.loads(again.output)["prompts"] == 4


def test_answers_are_revised_by_the_principles_of_a_file(talk, model, tmp_path):
    (tmp_path / "p.txt").write_text("Be warm\n")
    options = ["--model", "tiny", "--principles", tmp_path / "p.txt"]
    assert run("revise", talk, *options, "--out", tmp_path / "pairs.jsonl").exit_code == 0
    assert all(
        pair.chosen[0]["content"].endswith(" warm") for pair in preferences.comparisons(tmp_path / "pairs.jsonl")
    )
    assert run("revise", talk, *options, "--out", tmp_path / "set.jsonl", "--instructions").exit_code == 0
    assert len(list(conversations.read(tmp_path / "set.jsonl"))) == 6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["judge", "--answers", "1"], ConfigError, "two answers to each prompt"),
        (["judge", "--principles", "none.txt"], DataError, "there is no file none.txt"),
        (["revise", "--principles", "none.txt"], DataError, "there is no file none.txt"),
        (["revise", "--principles", "none.txt", "--rounds", "0"], ConfigError, "--rounds is 0"),
    ],
)
def test_what_cannot_be_is_an_error_of_the_user(talk, model, arguments, error, message):
    found = run(arguments[0], talk, "--model", "tiny", *arguments[1:])
    assert isinstance(found.exception, error)
    assert message in str(found.exception)
