"""Conversations out of the layouts in which instruction data is published.

    Alpaca      {"instruction": "Add.", "input": "2 and 3", "output": "5"}
                The input, if there is one, follows the instruction after an empty line. Also read: `system`, and
                `history`, a list of [user, assistant] pairs that came before.
    ShareGPT    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
                Roles human, gpt, system, function_call, observation and their synonyms; also `system` and `tools`.
    messages    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
                As in OpenAI's API, `tool_calls` and content in text parts included; also `tools`.

The first record decides a file's layout. Every fault is a `DataError` with the file and the line or record.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penjing.data import messages
from penjing.data.messages import Parse
from penjing.errors import DataError

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message


@dataclass(frozen=True)
class Conversation:
    """Messages that follow one another, and where they came from."""

    messages: "tuple[Message, ...]"
    origin: str = ""
    tools: tuple[dict[str, Any], ...] = field(default=())
    """Descriptions of the tools that the assistant may call, as in OpenAI's API."""


def read(path: str | Path, fault: Callable[[DataError], None] | None = None) -> Iterator[Conversation]:
    """The conversations of a .json, .jsonl or .parquet file (or .gz, .zst of the JSON ones), or of a folder of them.

    The path may be an address or a pattern, too; see `penjing.data.places`. Where `fault` is given, records that are
    not of their layout are left out, and it is told why.

    Raises:
        DataError: it is missing, unreadable, empty, of unknown layout, or a record is not of its layout.
    """
    empty = True
    for conversation in messages.parsed(path, _layout, fault):
        empty = False
        yield conversation
    if empty and fault is None:
        raise DataError(f"there are no conversations in {path}")


def _layout(record: dict[str, Any], where: str) -> Parse[Conversation]:
    if "messages" in record:
        return _turns("messages")
    if "conversations" in record:
        return _turns("conversations")
    if "instruction" in record and "output" in record:
        return _alpaca
    raise DataError(
        f"{where}: neither Alpaca (instruction, output) nor ShareGPT (conversations) nor messages; "
        f"this record has: {', '.join(record) or 'no fields'}"
    )


def _alpaca(record: dict[str, Any], where: str) -> Conversation:
    question = messages.question(record, where)
    answer = messages.message("assistant", messages.field(record, "output", where), where, "output")
    return Conversation((*question, answer), where, messages.tools(record, where))


def _turns(name: str) -> Parse[Conversation]:
    def parse(record: dict[str, Any], where: str) -> Conversation:
        turns = messages.turns(messages.field(record, name, where), where, name)
        return Conversation((*messages.system(record, where), *turns), where, messages.tools(record, where))

    return parse
