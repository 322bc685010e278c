r"""What people preferred, out of the layouts in which it is published: pairs of answers, and answers judged alone.

Pairs, of which one was chosen, become `Comparison`:

    transcripts     {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"}
                    Anthropic's HH. The prompt is what both begin with.
    conversations   {"conversations": [...], "chosen": {"from": "gpt", "value": ...}, "rejected": {...}}
                    LLaMA-Factory's, ShareGPT's roles; also `system` and `tools`.
    prompt          {"prompt": "Hi" or [messages], "chosen": "Hello" or [messages], "rejected": ...}
                    TRL's and open-instruct's. Messages may be the answer alone or the whole conversation; then `prompt`
                    may be missing.
    instruction     {"instruction": "Add.", "input": "2 and 3", "chosen": "5", "rejected": "6"}
                    Alpaca's fields before the answers.

How much better the chosen one is may be told by `margin`, or by `score_chosen` and `score_rejected`, whose difference
it then is. Answers judged alone, good or bad, become `Judged`; the judgement is `label` or `kto_tag`:

    {"messages" or "conversations": [..., the answer], "label": true}
    {"prompt": "Hi", "completion": "Hello", "label": true}
    {"instruction": "Hi", "output": "Hello", "kto_tag": true}

The first record decides a file's layout. Every fault is a `DataError` with the file and the line or record. Equal or
empty answers are no faults here: whoever trains on them counts and leaves them out (`penjing.alignment.pairs`).
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penjing.data import messages
from penjing.data.messages import Parse, Record
from penjing.errors import DataError
from penjing.files import atomic_file

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_JUDGEMENTS = ("label", "kto_tag")


@dataclass(frozen=True)
class Judged:
    """An answer that is good or bad by itself."""

    prompt: "tuple[Message, ...]"
    """What comes before the answer."""
    answer: "tuple[Message, ...]"
    """Messages of which the last is the assistant's."""
    desirable: bool
    origin: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    """Descriptions of the tools that the assistant may call, as in OpenAI's API."""


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, of which one is preferred."""

    prompt: "tuple[Message, ...]"
    """What comes before the answers."""
    chosen: "tuple[Message, ...]"
    """Messages of which the last is the assistant's; so of `rejected`."""
    rejected: "tuple[Message, ...]"
    margin: float | None = None
    """How much better the chosen one is, in the unit of whoever said so."""
    origin: str = ""
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def judged(self) -> tuple[Judged, Judged]:
        """Both answers, each by itself."""
        good = Judged(self.prompt, self.chosen, True, self.origin, self.tools)
        return good, Judged(self.prompt, self.rejected, False, self.origin, self.tools)


def read(path: str | Path, fault: Callable[[DataError], None] | None = None) -> Iterator[Comparison | Judged]:
    """The comparisons or judged answers of a .json, .jsonl or .parquet file (or .gz, .zst of the JSON ones), or folder.

    The path may be an address or a pattern, too; see `penjing.data.places`. Where `fault` is given, records that are
    not of their layout are left out, and it is told why.

    Raises:
        DataError: it is missing, unreadable, empty, of unknown layout, or a record is not of its layout.
    """
    empty = True
    for found in messages.parsed(path, _layout, fault):
        empty = False
        yield found
    if empty and fault is None:
        raise DataError(f"there are no preferences in {path}")


def comparisons(path: str | Path) -> Iterator[Comparison]:
    """As `read`, of pairs alone.

    Raises:
        DataError: also where answers are judged alone.
    """
    for found in read(path):
        if isinstance(found, Judged):
            raise DataError(
                f"{found.origin}: an answer that was judged alone, where pairs of a chosen and a rejected one are "
                "needed; KTO can learn from such data"
            )
        yield found


def judged(path: str | Path) -> Iterator[Judged]:
    """As `read`, of answers judged alone; a pair is two of them."""
    for found in read(path):
        yield from (found,) if isinstance(found, Judged) else found.judged


def write(path: Path, pairs: Iterable[Comparison]) -> None:
    """Writes comparisons as JSON lines that `read` reads: prompt, chosen and rejected as messages.

    Raises:
        PenjingError: the file could not be written.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for pair in pairs:
            record: Record = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            more = {"margin": pair.margin, "tools": pair.tools or None}
            record |= {name: value for name, value in more.items() if value is not None}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _layout(record: Record, where: str) -> Parse[Comparison | Judged]:
    if "chosen" in record and "rejected" in record:
        before = next((name for name in _BEFORE if name in record), None)
        return _comparison(None if before is None else _BEFORE[before])
    judgement = next((name for name in _JUDGEMENTS if name in record), None)
    if judgement is not None:
        if "messages" in record or "conversations" in record:
            return _judged_turns("messages" if "messages" in record else "conversations", judgement)
        if "prompt" in record and "completion" in record:
            return _judged_answer(_prompt, "completion", judgement)
        if "instruction" in record and "output" in record:
            return _judged_answer(messages.question, "output", judgement)
    raise DataError(
        f"{where}: neither a pair (chosen, rejected) nor an answer and its judgement (label or kto_tag, with messages, "
        "conversations, prompt and completion, or instruction and output); "
        f"this record has: {', '.join(record) or 'no fields'}"
    )


# what comes before the answers


def _prompt(record: Record, where: str) -> "list[Message]":
    value = messages.field(record, "prompt", where)
    if isinstance(value, list):
        return [*messages.system(record, where), *messages.turns(value, where, "prompt")]
    return [*messages.system(record, where), messages.message("user", value, where, "prompt")]


def _conversations(record: Record, where: str) -> "list[Message]":
    value = messages.field(record, "conversations", where)
    return [*messages.system(record, where), *messages.turns(value, where, "conversations")]


_BEFORE: "dict[str, Callable[[Record, str], list[Message]]]" = {
    "conversations": _conversations,
    "prompt": _prompt,
    "instruction": messages.question,
}


# pairs


def _comparison(before: "Callable[[Record, str], list[Message]] | None") -> Parse[Comparison | Judged]:
    def parse(record: Record, where: str) -> Comparison:
        prompt = before(record, where) if before is not None else []
        chosen, rejected = (_side(record, name, where, bool(prompt)) for name in ("chosen", "rejected"))
        if chosen[0]["role"] != "assistant" or rejected[0]["role"] != "assistant":  # whole conversations
            prompt, chosen, rejected = _parted(chosen, rejected, where)
        margin = _margin(record, where)
        return Comparison(tuple(prompt), tuple(chosen), tuple(rejected), margin, where, messages.tools(record, where))

    return parse


def _side(record: Record, name: str, where: str, prompted: bool) -> "list[Message]":
    """One of the two: an answer, or a whole conversation that ends in one."""
    value, place = messages.field(record, name, where), f"{where}, {name}"
    if isinstance(value, dict):
        side = [messages.turn(value, place)]
    elif isinstance(value, list):
        side = messages.turns(value, where, name)
    elif prompted:
        side = [messages.message("assistant", value, where, name)]
    else:
        side = _transcript(messages.text(value, where, name), place)
    _check_end(side, place)
    return side


def _transcript(text: str, where: str) -> "list[Message]":
    """The messages of HH's spelling."""
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise DataError(f"{where}: there is no prompt, and the text does not begin with 'Human:' as transcripts do")
    spoken = zip(parts[::2], parts[1::2], strict=True)
    return [messages.message(_SPEAKERS[who], said.strip(), where, "transcript") for who, said in spoken]


def _parted(
    chosen: "list[Message]", rejected: "list[Message]", where: str
) -> "tuple[list[Message], list[Message], list[Message]]":
    """The prompt, and what follows it in either of two whole conversations."""
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    while same and chosen[same - 1]["role"] == "assistant":  # what comes after it was not said by the user of both
        same -= 1
    if not same:
        raise DataError(f"{where}: the chosen and the rejected conversation do not begin with the same prompt")
    return chosen[:same], chosen[same:], rejected[same:]


def _check_end(answer: "list[Message]", where: str) -> None:
    if answer[-1]["role"] != "assistant":
        raise DataError(f"{where}: ends with a message of the role {answer[-1]['role']}, not with an answer")


_SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"))


def _margin(record: Record, where: str) -> float | None:
    margin = _number(record, "margin", where)
    for chosen, rejected in _SCORES:
        high, low = _number(record, chosen, where), _number(record, rejected, where)
        if margin is None and high is not None and low is not None:
            margin = high - low
    return margin


def _number(record: Record, name: str, where: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: '{name}' is {value!r}, not a number")
    return float(value)


# answers judged alone


def _judged_turns(name: str, judgement: str) -> Parse[Comparison | Judged]:
    def parse(record: Record, where: str) -> Judged:
        turns = messages.turns(messages.field(record, name, where), where, name)
        _check_end(turns, where)
        asked = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=None)
        if asked is None:
            raise DataError(f"{where}: nobody asks anything before the answer")
        prompt = (*messages.system(record, where), *turns[: asked + 1])
        tools = messages.tools(record, where)
        return Judged(prompt, tuple(turns[asked + 1 :]), _verdict(record, judgement, where), where, tools)

    return parse


def _judged_answer(
    before: "Callable[[Record, str], list[Message]]", name: str, judgement: str
) -> Parse[Comparison | Judged]:
    def parse(record: Record, where: str) -> Judged:
        prompt = before(record, where)
        value = messages.field(record, name, where)
        answer = messages.turns(value, where, name) if isinstance(value, list) else None
        answer = answer or [messages.message("assistant", value, where, name)]
        _check_end(answer, f"{where}, {name}")
        verdict, tools = _verdict(record, judgement, where), messages.tools(record, where)
        return Judged(tuple(prompt), tuple(answer), verdict, where, tools)

    return parse


def _verdict(record: Record, name: str, where: str) -> bool:
    value = messages.field(record, name, where)
    if value not in (True, False, 0, 1):
        raise DataError(f"{where}: '{name}' is {value!r}; it is true for a good answer and false for a bad one")
    return bool(value)
