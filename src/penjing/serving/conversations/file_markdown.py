r"""Conversations as Markdown, to be read by people, and back: the branch that is shown.

    <!-- penjing:message {"role": "user"} -->
    ## User

    What is a penjing?

A comment tells where a message begins, and what is known of it; between messages is one empty line. A line of a message
that looks like such a comment gets a backslash in front. So an editor may change what was said, and nothing is lost.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from penjing.serving.conversations.errors import ConversationError
from penjing.serving.conversations.file_checks import an_object, parsed
from penjing.serving.conversations.file_json import VERSION, facts_of, from_dict
from penjing.serving.conversations.records import Conversation

_COMMENT = re.compile(r"<!-- penjing:(conversation|message) (\{.*\}) -->")
_LIKE_COMMENT = re.compile(r"^(\\*)(<!-- penjing:)", re.MULTILINE)
_ESCAPED = re.compile(r"^\\(\\*<!-- penjing:)", re.MULTILINE)
_HEADINGS = {"user": "## User", "assistant": "## Assistant"}


def to_markdown(whole: Conversation) -> str:
    """A conversation's branch as text."""
    about = {
        "version": VERSION,
        "settings": whole.settings.to_dict(),
        "created": whole.created,
        "updated": whole.updated,
    }
    parts = [_comment("conversation", about)]
    if whole.title:
        parts.append(f"# {whole.title}")
    for message in whole.path():
        facts = {"role": message.role, "created": message.created} | facts_of(message)
        content = _LIKE_COMMENT.sub(r"\\\1\2", message.content)
        parts.append(f"{_comment('message', facts)}\n{_HEADINGS[message.role]}\n\n{content}")
    return "\n\n".join(parts) + "\n"


def from_markdown(text: str) -> Conversation:
    """A conversation out of such a text.

    Raises:
        ConversationError: it is none.
    """
    if "\r\n" in text and "\n" not in text.replace("\r\n", ""):
        text = text.replace("\r\n", "\n")  # an editor's work
    parts: list[tuple[str, dict[str, Any], list[str]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if (found := _COMMENT.fullmatch(line.rstrip())) is not None:
            parts.append((found[1], _facts_in(found[2], f"line {number}"), []))
        elif parts:
            parts[-1][2].append(line)
        elif line.strip():
            break
    if not parts or parts[0][0] != "conversation" or any(kind == "conversation" for kind, _, _ in parts[1:]):
        raise ConversationError("this Markdown is no conversation that Penjing wrote: it begins with no such comment")
    about, head = parts[0][1], [line for line in parts[0][2] if line.startswith("# ")]
    messages = []
    for number, (_, facts, lines) in enumerate(parts[1:], 1):
        content = _ESCAPED.sub(r"\1", _body(lines))
        parent = number - 1 or None
        messages.append(facts | {"id": number, "parent": parent, "content": content})
    leaf = len(messages) or None
    whole = about | {"title": head[0][2:] if head else "", "messages": messages, "leaf": leaf}
    if about.get("version") != VERSION:
        raise ConversationError(f"the file is of version {about.get('version')!r}; this Penjing reads {VERSION}")
    return from_dict(whole, "the conversation")


def _body(lines: list[str]) -> str:
    """A message's text out of the lines after its comment: without its heading, and the empty lines that we put."""
    if lines and lines[0].strip() in _HEADINGS.values():
        lines = lines[1:]
    if lines and not lines[0]:
        lines = lines[1:]
    return "\n".join(
        lines[:-1] if lines and not lines[-1] else lines
    )  # the last is between messages, or the file's end


def _comment(kind: str, facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"<!-- penjing:{kind} {text} -->"


def _facts_in(text: str, where: str) -> dict[str, Any]:
    data = text.encode()
    return dict(an_object(parsed(data, text, where), where))
