"""The tables of conversations, one schema for SQLite and PostgreSQL, and how older ones become the newest.

    conversations 1 --- n messages          a tree: `parent` is a message of the same conversation, or null
    messages      1 --- n pieces            what a running reply has said; joined into `content` at its end
                  1 --- 1 summaries         what the path to this message said, in short
    texts                                   titles and messages as they are searched; grams: their index
    presets                                 by user and name
    schema_version                          one row, one number

`VERSIONS[n]` are the statements that make version n + 1 out of version n; those of a released version are never edited.
A database of a higher version than we know is refused: what a newer Penjing wrote is not ours to guess at.
"""

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Dialect,
    Float,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    inspect,
    text,
)

from penjing.serving.conversations.errors import StorageError


class Json(TypeDecorator[Any]):
    """A value as JSON text; None is null."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """From the database."""
        return None if value is None else json.loads(value)


metadata = MetaData()

conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("settings", Json, nullable=False),
    Column("leaf", Text),
    Column("created", Float(53), nullable=False),
    Column("updated", Float(53), nullable=False),
)

messages = Table(
    "messages",
    metadata,
    Column("position", BigInteger, primary_key=True),
    Column("id", Text, nullable=False),
    Column("conversation", Text, nullable=False),
    Column("parent", Text),
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("server", BigInteger),
    Column("model", Text),
    Column("usage", Json),
    Column("feedback", Integer),
    Column("note", Text, nullable=False),
    Column("pinned", Integer, nullable=False),
    Column("created", Float(53), nullable=False),
    Column("details", Json),
)
"""`server` is the number of the process that writes a running reply; `details` are tool_calls, turn, notice, error."""

pieces = Table(
    "pieces",
    metadata,
    Column("position", BigInteger, primary_key=True),
    Column("message", Text, nullable=False),
    Column("text", Text, nullable=False),
)

summaries = Table(
    "summaries",
    metadata,
    Column("message", Text, primary_key=True),
    Column("text", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("created", Float(53), nullable=False),
)

texts = Table(
    "texts",
    metadata,
    Column("position", BigInteger, primary_key=True),
    Column("conversation", Text, nullable=False),
    Column("message", Text),
    Column("folded", Text, nullable=False),
)
"""`message` is null for a conversation's title."""

presets = Table(
    "presets",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("place", Integer, nullable=False),
    Column("body", Json, nullable=False),
)

_DIALECTS = {
    "sqlite": {
        # AUTOINCREMENT: a deleted row's number is never given again, so that an index never means another row
        "counted": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "grams": "",
        "index": "CREATE VIRTUAL TABLE grams USING fts5(words, content='', tokenize='ascii', prefix='4')",
    },
    "postgresql": {
        "counted": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "grams": ", grams TEXT[] NOT NULL",
        "index": "CREATE INDEX texts_grams ON texts USING gin (grams)",
    },
}

VERSIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE conversations (
            id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT NOT NULL, settings TEXT NOT NULL, leaf TEXT,
            created DOUBLE PRECISION NOT NULL, updated DOUBLE PRECISION NOT NULL)""",
        "CREATE INDEX conversations_by_age ON conversations (owner, updated, id)",
        """CREATE TABLE messages (
            position {counted}, id TEXT NOT NULL UNIQUE,
            conversation TEXT NOT NULL REFERENCES conversations (id), parent TEXT, role TEXT NOT NULL,
            content TEXT NOT NULL, status TEXT NOT NULL, server BIGINT, model TEXT, usage TEXT, feedback INTEGER,
            note TEXT NOT NULL, pinned INTEGER NOT NULL, created DOUBLE PRECISION NOT NULL, details TEXT,
            UNIQUE (conversation, id),
            FOREIGN KEY (conversation, parent) REFERENCES messages (conversation, id))""",
        "CREATE INDEX messages_by_parent ON messages (conversation, parent)",
        "CREATE INDEX messages_running ON messages (status) WHERE status = 'running'",
        """CREATE TABLE pieces (
            position {counted}, message TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
            text TEXT NOT NULL)""",
        "CREATE INDEX pieces_by_message ON pieces (message, position)",
        """CREATE TABLE summaries (
            message TEXT PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE, text TEXT NOT NULL,
            model TEXT NOT NULL, created DOUBLE PRECISION NOT NULL)""",
        """CREATE TABLE texts (
            position {counted}, conversation TEXT NOT NULL REFERENCES conversations (id),
            message TEXT REFERENCES messages (id), folded TEXT NOT NULL{grams})""",
        "CREATE INDEX texts_by_conversation ON texts (conversation)",
        "CREATE INDEX texts_by_message ON texts (message)",
        "{index}",
        """CREATE TABLE presets (
            owner TEXT NOT NULL, name TEXT NOT NULL, place INTEGER NOT NULL, body TEXT NOT NULL,
            PRIMARY KEY (owner, name))""",
    ),
)


def migrate(connection: Connection, versions: tuple[tuple[str, ...], ...] = VERSIONS) -> int:
    """Brings the tables to the newest version, in the connection's transaction: all of it, or nothing.

    Args:
        connection: in a transaction that may write.
        versions: as `VERSIONS`.

    Returns:
        The version that was found; 0: there was nothing.

    Raises:
        StorageError: the database is of a newer version, or another program's.
    """
    postgres = connection.dialect.name == "postgresql"
    if postgres:  # two servers that start at once wait for one another
        connection.execute(text("SELECT pg_advisory_xact_lock(7306357456645842804)"))
    tables = inspect(connection).get_table_names()
    found = 0
    if "schema_version" in tables:
        found = connection.execute(text("SELECT version FROM schema_version")).scalar_one()
    elif {"conversations", "messages"} & set(tables) or (tables and not postgres):
        raise StorageError(
            f"{_where(connection)} is a database of another program (it has {', '.join(sorted(tables)[:5])}); "
            "name another place for the conversations"
        )
    if found > len(versions):
        raise StorageError(
            f"{_where(connection)} was written by a newer Penjing (schema version {found}; this one knows "
            f"{len(versions)}): use that Penjing, or another place; nothing was changed"
        )
    if found == len(versions):
        return found
    if not found:
        connection.exec_driver_sql("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.exec_driver_sql("INSERT INTO schema_version VALUES (0)")
    for statements in versions[found:]:
        for statement in statements:
            connection.exec_driver_sql(statement.format(**_DIALECTS[connection.dialect.name]))
    connection.execute(text("UPDATE schema_version SET version = :new"), {"new": len(versions)})
    return found


def _where(connection: Connection) -> str:
    return connection.engine.url.render_as_string(hide_password=True).removeprefix("sqlite:///")
