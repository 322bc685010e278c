"""`penjing conversations`, as a user runs it."""

import json

import pytest
from typer.testing import CliRunner

from penjing.cli import app
from penjing.data import preferences
from penjing.errors import PenjingError
from penjing.serving.conversations.store import Store


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "chats.db"
    store = Store.open(place, serve=True)
    chat = store.create("ada", title="Magnets")
    question, reply = store.ask("ada", chat.id, "How do magnets work? 磁铁")
    store.replies.finish(reply.id, content="They attract.")
    other = store.replies.begin("ada", chat.id, question.id, None)
    store.replies.finish(other.id, content="No idea.")
    store.mark("ada", chat.id, reply.id, feedback=1)
    store.mark("ada", chat.id, other.id, feedback=-1)
    store.close()
    return place


def run(*arguments):
    done = CliRunner().invoke(app, ["conversations", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_conversations_move_from_one_store_to_another(place, tmp_path):
    here = ["--conversations", place, "--user", "ada"]
    there = ["--conversations", tmp_path / "other.db", "--user", "bo"]
    assert "Magnets" in run("list", "磁", *here)
    assert run("list", "nothing", *here) == ""
    (listed,) = json.loads(run("list", "--json", *here))
    run("export", tmp_path / "all.json", *here)
    run("export", tmp_path / "one.md", "--id", listed["id"], *here)
    run("export", tmp_path / "one.sharegpt.json", *here)
    run("import", tmp_path / "all.json", tmp_path / "one.md", tmp_path / "one.sharegpt.json", *there)
    run("export", tmp_path / "again.json", *there)
    whole = json.loads((tmp_path / "all.json").read_text())["conversations"]
    again = json.loads((tmp_path / "again.json").read_text())["conversations"]
    assert len(again) == 3
    assert whole[0] in again
    assert all(one["messages"][-1]["content"] == "No idea." for one in again)


def test_feedback_is_data_that_the_project_reads(place, tmp_path):
    here = ["--conversations", place, "--user", "ada"]
    assert run("feedback", tmp_path / "pairs.jsonl", *here) == f"{tmp_path / 'pairs.jsonl'}: 1 pairs\n"
    run("feedback", tmp_path / "alone.jsonl", "--alone", *here)
    (pair,) = preferences.comparisons(tmp_path / "pairs.jsonl")
    assert (pair.chosen[0]["content"], pair.rejected[0]["content"]) == ("They attract.", "No idea.")
    assert [one.desirable for one in preferences.judged(tmp_path / "alone.jsonl")] == [True, False]


def test_what_cannot_be_done_is_said_in_a_line(place, tmp_path):
    here = ["--conversations", place, "--user", "ada"]
    (tmp_path / "bad.json").write_text('{"a": 1}')
    for arguments, words in (
        (["export", tmp_path / "x.pdf"], "ends with none of"),
        (["export", tmp_path / "x.json", "--id", "nothing"], "no such conversation"),
        (["import", tmp_path / "bad.json"], "nothing of it was stored"),
        (["import", tmp_path / "missing.json"], "cannot be read"),
    ):
        with pytest.raises(PenjingError, match=words):
            run(*arguments, *here)
    assert not (tmp_path / "x.json").exists()
