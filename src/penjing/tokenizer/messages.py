"""Messages as a chat template is given them: checked, with each character's author, calls of tools written out."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from penjing.errors import TokenizerError
from penjing.tokenizer.provenance import author, traced

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

_ROLE = re.compile(r"[\w-]+")


def role_of(message: "Message", number: int) -> str:
    """Who speaks in message `number`.

    Raises:
        TokenizerError: it is no message, or its role no word.
    """
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise TokenizerError(f"message {number} is not an object with a role: {str(message)[:80]!r}")
    if not _ROLE.fullmatch(message["role"]):
        raise TokenizerError(f"message {number} has the role {message['role']!r}; a role is a word")
    return message["role"]


def traced_message(message: "Message", number: int) -> dict[str, Any]:
    """Message `number`, all text in it marked as its own.

    Raises:
        TokenizerError: as of `role_of`, or it has no content.
    """
    role = role_of(message, number)
    if "content" not in message and "tool_calls" not in message:
        raise TokenizerError(f"message {number} has no content")
    content = {key: value for key, value in message.items() if value is not None}
    return traced(content, author(number)) | {"role": role}


def calls_as_text(message: "Message") -> "Message":
    """A message whose calls are text: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, a line each.

    Raises:
        TokenizerError: they are no list of calls.
    """
    lines = [message.get("content") or ""]
    try:
        for call in message["tool_calls"]:
            function = call.get("function", call)
            arguments = function.get("arguments") or {}
            written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            name = json.dumps(function["name"], ensure_ascii=False)
            lines.append(f'<tool_call>{{"name": {name}, "arguments": {written}}}</tool_call>')
    except (TypeError, AttributeError, LookupError, ValueError):
        raise TokenizerError(f"this is no list of tool calls: {str(message['tool_calls'])[:80]!r}") from None
    content = "\n".join(line for line in lines if line)
    return cast("Message", {**message, "content": content, "tool_calls": None})
