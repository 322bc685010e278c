"""Full-text search that finds exactly what reading everything would find, in any language, from one character on.

A conversation is found when each word of the query (what stands between spaces) is part of its title or of one of its
messages. Chinese has no spaces to cut words at, so the index is of characters: a text is the sequence of its
overlapping pairs, and a word of n characters is the phrase of its n - 1 pairs.

    盆景很美    盆景 景很 很美 美.        景很美 = "景很 很美"        景 = any pair that begins with 景

SQLite's FTS5 finds phrases; each character is written as four base-36 digits there, so that every pair is one word to
its tokenizer. PostgreSQL keeps the set of a text's characters and pairs in an array with a GIN index, which finds
candidates, and looks for the word in those. Case and width make no difference (`folded`).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    cast,
    column,
    delete,
    func,
    insert,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from penjing.serving.conversations.errors import ConversationError
from penjing.serving.conversations.records import checked_text, folded
from penjing.serving.conversations.schema import conversations, messages, texts

LONGEST_QUERY = 200
MOST_WORDS = 16
_AROUND = 60
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_END = "0000"
_index = table("grams", column("rowid"), column("words"))


def words_of(query: str) -> list[str]:
    """The words that a query asks for, folded.

    Raises:
        ConversationError: there are too many, or it is no text.
    """
    words = list(dict.fromkeys(folded(checked_text(query, "the query", LONGEST_QUERY)).split()))
    if len(words) > MOST_WORDS:
        raise ConversationError(f"the query has {len(words)} words; {MOST_WORDS} is the most")
    return words


def add(connection: Connection, conversation: str, said: Mapping[str | None, str]) -> None:
    """Makes messages findable, and under None the title; none of them is yet."""
    rows = [
        {"conversation": conversation, "message": message, "folded": folded(content)}
        for message, content in said.items()
    ]
    if connection.dialect.name != "sqlite":
        connection.execute(
            text(
                "INSERT INTO texts (conversation, message, folded, grams) "
                "VALUES (:conversation, :message, :folded, :grams)"
            ),
            [row | {"grams": _grams(str(row["folded"]))} for row in rows],
        )
        return
    newest = connection.execute(select(func.max(texts.c.position))).scalar() or 0  # nobody else writes now
    connection.execute(insert(texts), rows)
    new = connection.execute(select(texts.c.position, texts.c.folded).where(texts.c.position > newest)).all()
    connection.execute(
        text("INSERT INTO grams (rowid, words) VALUES (:row, :words)"),
        [{"row": position, "words": _pairs(said)} for position, said in new],
    )


def remove(connection: Connection, which: ColumnElement[bool]) -> None:
    """Forgets the rows of `texts` for which the condition holds."""
    if connection.dialect.name == "sqlite":
        # the index keeps no text: what is to be forgotten must be told as it was
        gone = connection.execute(select(texts.c.position, texts.c.folded).where(which)).all()
        if gone:
            connection.execute(
                text("INSERT INTO grams (grams, rowid, words) VALUES ('delete', :row, :words)"),
                [{"row": position, "words": _pairs(said)} for position, said in gone],
            )
    connection.execute(delete(texts).where(which))


def condition(connection: Connection, words: Sequence[str]) -> list[ColumnElement[bool]]:
    """What must hold of a row of `conversations` that all words are found in."""
    return [conversations.c.id.in_(select(texts.c.conversation).where(_has(connection, word))) for word in words]


def snippet(connection: Connection, conversation: str, words: Sequence[str]) -> str:
    """A piece of a message of the conversation around the first of the words that one has; "" where none has."""
    for word in words:
        found = connection.execute(
            select(messages.c.content)
            .join(texts, texts.c.message == messages.c.id)
            .where(texts.c.conversation == conversation, _holds(connection, word))
            .order_by(texts.c.position)
            .limit(1)
        ).scalar()
        if found is not None:
            return _around(found, word)
    return ""


def _around(content: str, word: str) -> str:
    """The text around the place of a folded word, as it was written."""
    place, end = content.casefold().find(word), 0
    if place >= 0 and content[place : place + len(word)].casefold() == word:
        end = place + len(word)
    else:  # folding changed lengths before it: find the characters that its characters came from
        origins: list[int] = []
        letters: list[str] = []
        for number, character in enumerate(content):
            for letter in _folded_character(character):
                letters.append(letter)
                origins.append(number)
        found = "".join(letters).find(word)
        place = origins[found] if found >= 0 else 0
        end = origins[found + len(word) - 1] + 1 if found >= 0 else 0
    start, stop = max(0, place - _AROUND), end + _AROUND
    return ("…" if start else "") + " ".join(content[start:stop].split()) + ("…" if stop < len(content) else "")


def _has(connection: Connection, word: str) -> ColumnElement[bool]:
    """What must hold of a row of `texts` that has the word, by the index."""
    if connection.dialect.name == "sqlite":
        codes = [_code(character) for character in word]
        pairs = [one + two for one, two in pairwise(codes)]
        asked = f'"{" ".join(pairs)}"' if pairs else f'"{codes[0]}"*'
        matching = select(_index.c.rowid).where(literal_column("grams").op("MATCH")(asked))
        return texts.c.position.in_(matching)
    grams = [word] if len(word) == 1 else [one + two for one, two in pairwise(word)]
    return column("grams", ARRAY(Text)).contains(cast(sorted(set(grams)), ARRAY(Text))) & _holds(connection, word)


def _holds(connection: Connection, word: str) -> ColumnElement[bool]:
    """What must hold of a row of `texts` that has the word, by reading it."""
    place = func.instr if connection.dialect.name == "sqlite" else func.strpos
    return place(texts.c.folded, word) > 0


def _pairs(said: str) -> str:
    """A folded text for FTS5: each character and its next as one word."""
    codes = [_code(character) for character in said]
    return " ".join([one + two for one, two in pairwise([*codes, _END])])


def _grams(said: str) -> list[str]:
    """A folded text for PostgreSQL: its characters and pairs, each once."""
    return sorted(set(said) | {one + two for one, two in pairwise(said)})


@lru_cache(maxsize=1 << 14)
def _code(character: str) -> str:
    number, digits = ord(character), ""
    for _ in range(4):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


@lru_cache(maxsize=1 << 14)
def _folded_character(character: str) -> str:
    return folded(character)
