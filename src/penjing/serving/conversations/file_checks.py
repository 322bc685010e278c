"""Checks of what files of conversations hold: a stranger's values become ours, or a fault that says where."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from penjing.errors import DataError
from penjing.serving.conversations.errors import ConversationError, TooLargeError
from penjing.serving.conversations.records import LONGEST_NAME, Settings
from penjing.serving.json_text import fault_in

DEEPEST = 32
"""How deep JSON may be nested."""
MOST_CONVERSATIONS = 10_000
"""Conversations in one file."""


def parsed(data: bytes, text: str, where: str = "the file") -> Any:
    """A JSON value, or those of JSON lines."""
    lines = [line for line in data.splitlines() if line.strip()]
    try:
        if len(lines) > 1 and all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines):
            for line in lines:
                _refuse(fault_in(line, DEEPEST), where)
            return [json.loads(line) for line in lines]
        _refuse(fault_in(data, DEEPEST), where)
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        if isinstance(fault, json.JSONDecodeError):
            raise ConversationError(f"{where}, line {fault.lineno}: not valid JSON ({fault.msg})") from None
        raise ConversationError(f"{where}: not valid JSON ({str(fault)[:100]})") from None


def _refuse(fault: str | None, where: str) -> None:
    if fault is not None:
        raise ConversationError(f"{where} cannot be read: {fault}")


def check_count(several: Sequence[Any]) -> None:
    """Refuses a file of too many conversations."""
    if len(several) > MOST_CONVERSATIONS:
        raise TooLargeError(f"the file has {len(several):,} conversations; {MOST_CONVERSATIONS:,} is the most")


def within(check: Any, value: Any, where: str) -> Any:
    """What a check makes of a value; its fault says where."""
    try:
        return check(value)
    except DataError as fault:
        raise ConversationError(str(fault)) from None
    except ConversationError as fault:
        raise type(fault)(f"{where}: {fault}") from None


def settings_of(value: Any, where: str) -> Settings:
    """A conversation's settings."""
    return within(Settings.of, an_object(value, where), where)


def an_object(value: Any, where: str) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ConversationError(f"{where}: a {type(value).__name__}, where an object {{...}} is expected")
    return value


def are_objects(value: Any) -> bool:
    """Whether it is a list of JSON objects."""
    return isinstance(value, list | tuple) and all(isinstance(one, dict) for one in value)


def an_id(value: Any, where: str) -> str:
    """A message's name within the file."""
    if isinstance(value, bool) or not isinstance(value, int | str) or len(str(value)) > LONGEST_NAME:
        raise ConversationError(f"{where}: {str(value)[:40]!r} is no id of a message")
    return str(value)


def seconds_of(value: Any, where: str) -> float:
    """A time."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < 1e12
        or not math.isfinite(value)
    ):
        raise ConversationError(f"{where}: {str(value)[:40]!r} is no time in seconds since 1970")
    return float(value)
