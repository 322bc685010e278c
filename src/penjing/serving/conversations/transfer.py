r"""Conversations as files, out and in again: what is exported and imported exports the same again.

    json       the whole tree with everything that is kept of it; messages are named by their number
               {"format": "penjing.conversations", "version": 1, "conversations": [{"title", "settings", "leaf",
                "messages": [{"id": 1, "parent": null, "role": "user", "content": "Hi"}, ...]}]}
    sharegpt   the branch that is shown, as datasets for training are published, and as `penjing.data` reads it
               {"title": ..., "system": ..., "conversations": [{"from": "human", "value": "Hi"}, ...]}
    markdown   the branch that is shown, to be read; comments tell where messages begin, and whose they are. A line of
               a message that looks like such a comment gets a backslash in front

Read are also a list of ShareGPT's objects, JSON lines of them, and OpenAI's `messages`. What is imported is a
stranger's: sizes, depth and types are checked before anything is stored, and all of a file is stored or nothing.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from penjing.serving.conversations.errors import ConversationError, TooLargeError
from penjing.serving.conversations.file_checks import check_count, parsed
from penjing.serving.conversations.file_json import NAME, VERSION, from_json, to_dict
from penjing.serving.conversations.file_markdown import from_markdown, to_markdown
from penjing.serving.conversations.file_sharegpt import from_file, to_file
from penjing.serving.conversations.records import Conversation

Format = Literal["json", "sharegpt", "markdown"]
FORMATS: tuple[Format, ...] = ("json", "sharegpt", "markdown")
ENDINGS: dict[Format, str] = {"json": ".json", "sharegpt": ".sharegpt.json", "markdown": ".md"}
TYPES: dict[Format, str] = {
    "json": "application/json",
    "sharegpt": "application/json",
    "markdown": "text/markdown; charset=utf-8",
}

LONGEST_FILE = 32 << 20
"""Bytes of a file that is imported."""


def write(several: Sequence[Conversation], form: Format) -> str:
    """Conversations as the text of a file; Markdown takes one.

    Raises:
        ConversationError: several as Markdown.
    """
    if form == "json":
        return _dump({"format": NAME, "version": VERSION, "conversations": [to_dict(one) for one in several]})
    if form == "sharegpt":
        written = [to_file(one) for one in several]
        return _dump(written[0] if len(written) == 1 else written)
    if len(several) != 1:
        raise ConversationError("Markdown holds one conversation; export several as json or sharegpt")
    return to_markdown(several[0])


def read(data: bytes, form: Format | Literal["auto"] = "auto") -> list[Conversation]:
    """The conversations of a file, to be stored under new ids.

    Raises:
        TooLargeError: the file, or something in it, is larger than its limit.
        ConversationError: it is not of that form, or something in it is not what it should be; the message says what.
    """
    if len(data) > LONGEST_FILE:
        raise TooLargeError(f"the file has {len(data):,} bytes; {LONGEST_FILE:,} is the most")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise ConversationError(f"the file is no text: it is not UTF-8 (byte {fault.start:,})") from None
    if form == "markdown" or (form == "auto" and text.lstrip().startswith("<!-- penjing:")):
        return [from_markdown(text)]
    values = parsed(data, text)
    if isinstance(values, dict) and values.get("format") == NAME:
        if form == "sharegpt":
            raise ConversationError("this is Penjing's own JSON, not ShareGPT: import it as json")
        return from_json(values)
    if form == "json":
        raise ConversationError(f'this is not Penjing\'s JSON: it has no "format": "{NAME}"')
    several = values if isinstance(values, list) else [values]
    if not several:
        raise ConversationError("there are no conversations in the file")
    check_count(several)
    return [from_file(value, f"conversation {number}") for number, value in enumerate(several, 1)]


def file_name(whole: Conversation, form: Format) -> str:
    """A name for a file, of letters that every system takes.

    >>> from penjing.serving.conversations.records import Settings
    >>> file_name(Conversation("x", "Why? / 为什么", Settings(), None, 0, 0), "markdown")
    'Why-为什么.md'
    """
    name = "-".join(re.findall(r"\w+", whole.title))[:60] or "conversation"
    return name + ENDINGS[form]


def form_of(name: str) -> Format:
    """The form that a file's name asks for.

    Raises:
        ConversationError: it asks for none.

    >>> form_of("chats.sharegpt.json"), form_of("chats.json")
    ('sharegpt', 'json')
    """
    for form in sorted(FORMATS, key=lambda form: -len(ENDINGS[form])):
        if name.endswith(ENDINGS[form]):
            return form
    raise ConversationError(f"{name} ends with none of {', '.join(ENDINGS.values())}, which tell what to write")


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
