"""Faults of the database: each has its error, and what was stored before is there afterwards."""

import os
import sqlite3
import stat
import threading

import pytest
from sqlalchemy import inspect, text

from penjing.errors import PenjingError
from penjing.serving.conversations import schema
from penjing.serving.conversations.database import Database
from penjing.serving.conversations.errors import BusyError, FullError, StorageError
from penjing.serving.conversations.records import MOST_MESSAGES
from penjing.serving.conversations.store import Store


@pytest.fixture
def file(tmp_path):
    return tmp_path / "chats.db"


def filled(place):
    store = Store.open(place, serve=True, patience=0.1)
    chat = store.create("mei", title="kept")
    _, reply = store.ask("mei", chat.id, "Hi")
    store.replies.finish(reply.id, content="Hello")
    return store, chat


def test_the_tables_are_those_that_queries_believe_in(place):
    """The migrations are written as SQL, the queries against tables in Python: both name the same columns."""
    database = Database.open(place)
    with database.reading() as connection:
        found = inspect(connection)
        for table in schema.metadata.tables.values():
            columns = {column["name"]: column for column in found.get_columns(table.name)}
            assert set(columns) - {"grams"} == {column.name for column in table.columns}
            for column in table.columns:
                if not column.primary_key:
                    assert columns[column.name]["nullable"] == column.nullable, (table.name, column.name)
    database.close()


def test_an_older_version_is_brought_up_to_date_and_a_newer_one_refused(place, monkeypatch):
    store, chat = filled(place)
    store.close()
    more = (*schema.VERSIONS, ("ALTER TABLE presets ADD COLUMN colour TEXT",))
    monkeypatch.setattr(schema.migrate, "__defaults__", (more,))
    newer = Store.open(place)
    with newer.database.reading() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar_one() == 2
        connection.execute(text("SELECT colour FROM presets"))
    assert newer.get("mei", chat.id).title == "kept"
    newer.close()
    monkeypatch.undo()
    with pytest.raises(StorageError, match=r"newer Penjing \(schema version 2; this one knows 1\)"):
        Store.open(place)


def test_a_migration_that_fails_changes_nothing(place, monkeypatch):
    store, chat = filled(place)
    store.close()
    broken = (*schema.VERSIONS, ("ALTER TABLE presets ADD COLUMN colour TEXT", "ALTER TABLE nothing ADD COLUMN x TEXT"))
    monkeypatch.setattr(schema.migrate, "__defaults__", (broken,))
    with pytest.raises(StorageError):
        Store.open(place)
    monkeypatch.undo()
    again = Store.open(place)
    with again.database.reading() as connection:
        assert "colour" not in {column["name"] for column in inspect(connection).get_columns("presets")}
    assert again.get("mei", chat.id).messages[1].content == "Hello"
    again.close()


def test_a_locked_file_is_waited_for_and_then_refused(file):
    store, chat = filled(file)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError, match="locked by another program"):
        store.ask("mei", chat.id, "And?")
    assert len(store.get("mei", chat.id).messages) == 2  # reading goes on
    other.execute("ROLLBACK")
    store.ask("mei", chat.id, "And?")
    store.close()
    other.close()


def test_a_full_disk_is_told_and_loses_nothing(file):
    """SQLite is told to have no more pages than it has: as a disk that is full, by its own means."""
    store, chat = filled(file)

    def limit(pages):
        for engine in (store.database._engine, store.database._hasty):
            engine.dispose()
            with engine.connect() as connection:  # the pool has this one connection then
                connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    with store.database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    limit(pages)
    with pytest.raises(FullError, match="disk is full"):
        store.ask("mei", chat.id, "x" * 200_000)
    assert [one.content for one in store.get("mei", chat.id).messages] == ["Hi", "Hello"]
    limit(1 << 20)
    store.ask("mei", chat.id, "x" * 200_000)
    store.close()


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="this system has no /dev/full")
def test_a_place_that_cannot_be_written_is_an_error_of_ours():
    with pytest.raises(PenjingError):
        Store.open("/dev/full")


def damaged(file, how):
    store, _ = filled(file)
    for number in range(40):
        store.create("mei", title=f"title {number} " * 10)
    store.close()
    data = bytearray(file.read_bytes())
    if how == "overwritten":
        data[4096 : len(data) - 4096] = os.urandom(len(data) - 8192)
    elif how == "cut":
        data = data[: len(data) // 2]
    else:
        data = bytearray(b"Dear diary, " * 1000)
    file.write_bytes(data)
    return data


@pytest.mark.parametrize("how", ["overwritten", "cut", "text"])
def test_a_damaged_file_is_refused_and_left_as_it_is(file, how):
    data = damaged(file, how)
    with pytest.raises(PenjingError, match="damaged") as told:
        Store.open(file, serve=True)
    assert str(file) in str(told.value)
    assert file.read_bytes() == data


def test_another_programs_database_is_left_alone(file):
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE recipes (name TEXT)")
    other.commit()
    other.close()
    with pytest.raises(StorageError, match="another program"):
        Store.open(file)


def test_a_second_server_on_one_file_is_refused_and_a_reader_is_not(file):
    store, chat = filled(file)
    with pytest.raises(StorageError, match="in use by another server"):
        Store.open(file, serve=True)
    reader = Store.open(file)
    assert reader.get("mei", chat.id).title == "kept"
    reader.close()
    store.close()
    Store.open(file, serve=True).close()


@pytest.mark.skipif(os.name == "nt", reason="rights of files are another matter there")
def test_the_file_is_its_owners_alone(file):
    filled(file)[0].close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("mysql://host/name", "not in mysql"),
        ("://", "no address"),
        ("sqlite://", "need a file"),
        ("sqlite:///:memory:", "need a file"),
        ("postgresql://nobody@127.0.0.1:1/none", "cannot answer now"),
    ],
)
def test_addresses_that_cannot_be_used_say_why(address, words):
    with pytest.raises(StorageError, match=words):
        Store.open(address, patience=0.5)


def test_a_password_is_never_in_a_message():
    with pytest.raises(StorageError) as told:
        Store.open("postgresql://user:hush@127.0.0.1:1/none", patience=0.5)
    assert "hush" not in str(told.value)


def test_many_threads_write_at_once_and_nothing_is_lost(store):
    chats = [store.create("mei") for _ in range(6)]
    faults = []

    def talk(chat):
        try:
            for number in range(5):
                _, reply = store.ask("mei", chat.id, f"question {number}")
                store.replies.append({reply.id: f"answer {number}"})
                store.replies.finish(reply.id, content=f"answer {number}")
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=talk, args=(chat,)) for chat in chats]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    for chat in chats:
        said = [one.content for one in store.get("mei", chat.id).path()]
        assert said == [f"{kind} {number}" for number in range(5) for kind in ("question", "answer")]


def test_replies_of_a_process_that_died_are_interrupted_and_keep_what_was_stored(place):
    """The process dies without closing anything: its lock is free, its reply is running, its pieces are there."""
    store, chat = filled(place)
    _, reply = store.ask("mei", chat.id, "And?")
    store.replies.append({reply.id: "Half a "})
    store.replies.append({reply.id: "sentence"})
    store.close()  # as far as the store knows, the reply is still running
    again = Store.open(place, serve=True)
    found = again.get("mei", chat.id).messages[-1]
    assert (found.status, found.content, found.error) == ("interrupted", "Half a sentence", "the server stopped")
    assert again.page("mei", query="sentence")[0][0].id == chat.id
    with again.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM pieces")).scalar_one() == 0
    again.close()


def test_a_conversation_has_its_most_messages(store, monkeypatch):
    monkeypatch.setattr("penjing.serving.conversations.rows.MOST_MESSAGES", 2)
    assert MOST_MESSAGES > 2
    chat = store.create("mei")
    _, reply = store.ask("mei", chat.id, "Hi")
    store.replies.finish(reply.id, content="Hello")
    with pytest.raises(PenjingError, match="2 messages at most"):
        store.ask("mei", chat.id, "And?")
    assert len(store.get("mei", chat.id).messages) == 2
