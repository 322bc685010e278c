"""Things to ask whose answers can be verified, out of a file: what published sets for reinforcement learning look like.

    {"messages": [{"role": "user", "content": "..."}], "ground_truth": "1104", "dataset": "gsm8k"}    open-instruct's
    {"prompt": "...", "answer": "1104"}
    {"prompt": "Write double(x).", "tests": ["assert double(2) == 4"]}

A prompt is a text or messages. An answer at the end of the messages is left out, for the model is to give one. What is
expected is `answer`, `ground_truth`, or `solution`; a test list is expected instead where code is judged.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from penjing.alignment.rewards import Task
from penjing.data import places, records
from penjing.errors import DataError

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer

T = TypeVar("T", bound=Any)

_EXPECTED = ("answer", "ground_truth", "solution")


def read_tasks(path: str | Path) -> list[Task]:
    """The tasks of a .json, .jsonl or .parquet file, or of a folder of them.

    Raises:
        DataError: it is missing or empty, or a record has no prompt, or nothing to be judged by; it names the record.
    """
    files = places.files_at(path, lambda file: records.kind_of(file) in records.KINDS, ", ".join(records.KINDS))
    tasks = [_task(record.value, record.where) for file in files for record in records.read(file)]
    if not tasks:
        raise DataError(f"there are no tasks in {path}")
    return tasks


def fitting(tasks: Sequence[T], tokenizer: "Tokenizer", context: int, room: int) -> list[T]:
    """The tasks (or items of the world) whose prompts leave room for an answer of so many tokens.

    Raises:
        DataError: there is none.
    """
    assert tokenizer.chat is not None, "whoever asks by messages has a template"
    chat, most = tokenizer.chat, context - room
    kept = [task for task in tasks if len(chat.render(task.prompt, add_generation_prompt=True).ids) <= most]
    if not kept:
        raise DataError(
            f"none of the {len(tasks)} prompts leaves room for an answer of {room} tokens in the context of {context}"
        )
    return kept


def _task(record: Any, where: str) -> Task:
    if not isinstance(record, dict):
        raise DataError(f"{where}: a {type(record).__name__}, where a record {{...}} is expected")
    prompt = _prompt(record, where)
    tests = record.get("tests") or []
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise DataError(f"{where}: 'tests' is not a list of texts")
    expected = next((record[name] for name in _EXPECTED if record.get(name) is not None), None)
    if expected is None and not tests:
        raise DataError(
            f"{where}: nothing to judge an answer by; there must be {', '.join(_EXPECTED)} or tests, "
            f"and there is: {', '.join(record) or 'nothing'}"
        )
    return Task(prompt, "" if expected is None else str(expected), tuple(tests), where)


def _prompt(record: dict[str, Any], where: str) -> tuple[Any, ...]:
    given = record.get("prompt", record.get("messages"))
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not all(
        isinstance(message, dict) and all(isinstance(message.get(name), str) for name in ("role", "content"))
        for message in given
    ):
        raise DataError(f"{where}: no prompt: 'prompt' is a text or messages with role and content, or 'messages' are")
    messages = [{"role": message["role"], "content": message["content"]} for message in given]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user":
        raise DataError(f"{where}: the prompt does not end with a message of the user's")
    return tuple(messages)
