"""What is in a set of conversations or preferences, before anything is learned from it.

    print(inspect("alpaca.jsonl", tokenizer, context=512).to_dict())

Counted are records, messages and lengths by role, languages, exact and near copies (`cleaning.minhash`), what a context
would cut or leave out (by the same rendering as in training), and turns that are odd: empty answers, two messages of
one role in a row, results of tools that nobody called. A pair of preferences is looked at as two conversations.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penjing.data import conversations, messages, preferences
from penjing.data.cleaning.minhash import NearCopies, signature, words
from penjing.data.conversations import Conversation
from penjing.data.instructions import RenderedConversations, Turns, is_empty, to_be_learned
from penjing.data.languages import language_of
from penjing.errors import DataError, TokenizerError

if TYPE_CHECKING:
    from penjing.tokenizer.chat import ChatTemplate, Message
    from penjing.tokenizer.tokenizer import Tokenizer

_EXAMPLES = 3
_BINS = 16
_PARTS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
THINK, THOUGHT = "<think>", "</think>"


@dataclass(frozen=True)
class Lengths:
    """How long some texts are."""

    count: int
    mean: float
    quantiles: dict[str, float]
    """Of the parts of the texts named, from "0%" to "100%"."""
    histogram: list[int]
    """How many texts are in each of equal steps from 0 to the longest."""

    @classmethod
    def of(cls, lengths: Iterable[int]) -> "Lengths":
        """The summary of some lengths, at least one."""
        values = np.array(list(lengths))
        found = np.quantile(values, _PARTS)
        quantiles = {f"{part:.0%}": float(value) for part, value in zip(_PARTS, found, strict=True)}
        counts, _ = np.histogram(values, _BINS, (0, max(int(values.max()), 1)))
        return cls(len(values), float(values.mean()), quantiles, counts.tolist())


@dataclass
class Noted:
    """Something that was found, how often, and where for the first times."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Counts one more."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation."""

    text: str
    learned: bool
    special: bool


@dataclass
class Inspection:
    """What was found."""

    kind: str
    """"conversations", "comparisons" or "judged answers"."""
    records: int = 0
    """How many could be read."""
    unit: str = "characters"
    """What lengths are in: tokens where there is a tokenizer."""
    roles: dict[str, Lengths] = field(default_factory=dict)
    """Of messages, by role."""
    whole: Lengths | None = None
    """Of conversations; in tokens, as the chat template writes them."""
    turns: dict[int, int] = field(default_factory=dict)
    """How many conversations have so many messages of the user."""
    languages: dict[str, int] = field(default_factory=dict)
    """Conversations by language."""
    copies: Noted = field(default_factory=Noted)
    near_copies: Noted = field(default_factory=Noted)
    same_question: int = 0
    """Conversations that begin with another one's question, and go on in another way."""
    odd: dict[str, Noted] = field(default_factory=dict)
    """What is unusual, by kind."""
    context: int | None = None
    rendering: dict[str, int] | None = None
    """What becomes of the conversations in training with rows of `context` tokens."""
    preference: dict[str, float] = field(default_factory=dict)
    """Of preferences: equal pairs, how often the chosen answer is the longer one, ..."""
    sample: list[Piece] = field(default_factory=list)
    """A conversation as the model reads it."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def inspect(
    path: str | Path,
    tokenizer: "Tokenizer | None" = None,
    *,
    context: int | None = None,
    turns: Turns = "all",
    near: float = 0.8,
    sample: int = 1,
) -> Inspection:
    """Looks at everything at a path.

    Args:
        path: as of `conversations.read` and `preferences.read`.
        tokenizer: gives lengths in tokens and, with a chat template, the rendering and the sample.
        context: tokens of a row in training.
        turns: which of the assistant's turns are learned there.
        near: from which estimated similarity on conversations are near copies.
        sample: the number of the record that is shown, from 1; 0: none.

    Raises:
        DataError: there is nothing that can be read.
    """
    faults = Noted()
    kind, records = _read(path, faults)
    found = Inspection(kind, unit="characters" if tokenizer is None else "tokens", context=context)
    looked_at = _Looked(tokenizer, near)
    talks: list[Conversation] = []
    shown: Conversation | None = None
    for record in records:
        found.records += 1
        parts = _conversations(record, found.preference)
        if found.records == sample:
            shown = parts[0]
        talks += parts
        for part in parts:
            looked_at.add(part, found)
    if faults.count:
        found.odd["not of the layout"] = faults
    if not talks:
        raise DataError(f"no record in {path} can be read: {faults.examples[0] if faults.examples else 'it is empty'}")
    looked_at.finish(found)
    if tokenizer is not None and tokenizer.chat is not None:
        _render(talks, shown, tokenizer, turns, found)
    return found


def _read(path: str | Path, faults: Noted) -> tuple[str, Iterator[Any]]:
    """What kind of records there are, and the records."""
    first = next(messages.parsed(path, lambda _, __: lambda record, _: record), None)
    if first is None:
        raise DataError(f"there are no records in {path}")

    def note(error: DataError) -> None:
        faults.add(str(error))

    if "chosen" in first and "rejected" in first:
        return "comparisons", preferences.read(path, note)
    if "label" in first or "kto_tag" in first:
        return "judged answers", preferences.read(path, note)
    return "conversations", conversations.read(path, note)


def _conversations(record: Any, counts: dict[str, float]) -> list[Conversation]:
    """The conversations of a record; what is special about preferences is counted."""
    if isinstance(record, Conversation):
        return [record]
    if isinstance(record, preferences.Judged):
        name = "desirable" if record.desirable else "undesirable"
        counts[name] = counts.get(name, 0) + 1
        return [Conversation((*record.prompt, *record.answer), record.origin, record.tools)]
    sides = [side[-1]["content"] for side in (record.chosen, record.rejected)]
    for name, holds in {
        "equal pairs": record.chosen == record.rejected,
        "chosen is longer": len(sides[0]) > len(sides[1]),
        "rejected is longer": len(sides[0]) < len(sides[1]),
        "with a margin": record.margin is not None,
    }.items():
        counts[name] = counts.get(name, 0) + holds
    return [
        Conversation((*record.prompt, *side), f"{record.origin}{name}", record.tools)
        for side, name in ((record.chosen, ", chosen"), (record.rejected, ", rejected"))
    ]


class _Looked:
    """Goes through conversations one by one."""

    def __init__(self, tokenizer: "Tokenizer | None", near: float):
        self._tokenizer = tokenizer
        self._near = near
        self._roles: dict[str, list[int]] = {}
        self._whole: list[int] = []
        self._turns, self._languages = Counter[int](), Counter[str]()
        self._seen: dict[bytes, str] = {}
        self._kept = NearCopies(near)
        self._questions = Counter[bytes]()
        self._special = [] if tokenizer is None else [token for token in tokenizer.special_tokens if len(token) > 2]

    def add(self, talk: Conversation, found: Inspection) -> None:
        """Looks at one."""
        total = 0
        for message in talk.messages:
            length = self._length(_said(message))
            self._roles.setdefault(message["role"], []).append(length)
            total += length
        self._whole.append(total)
        self._turns[sum(message["role"] == "user" for message in talk.messages)] += 1
        text = "\n".join(_said(message) for message in talk.messages)
        self._languages[language_of(text)] += 1
        for oddity in odd(talk.messages):
            found.odd.setdefault(oddity, Noted()).add(talk.origin)
        if any(token in text for token in self._special):
            found.odd.setdefault("spells a special token (which it will not become)", Noted()).add(talk.origin)
        if found.kind == "conversations":  # the two sides of a pair are alike by nature
            self._copies(talk, text, found)

    def finish(self, found: Inspection) -> None:
        """Writes down what needs all of them."""
        found.roles = {role: Lengths.of(lengths) for role, lengths in self._roles.items()}
        found.whole = Lengths.of(self._whole)
        found.turns = dict(sorted(self._turns.items()))
        found.languages = dict(self._languages.most_common())
        found.same_question = sum(count - 1 for count in self._questions.values())
        found.odd = dict(sorted(found.odd.items(), key=lambda item: -item[1].count))

    def _length(self, text: str) -> int:
        return len(text) if self._tokenizer is None else len(self._tokenizer.encode_array(text))

    def _copies(self, talk: Conversation, text: str, found: Inspection) -> None:
        digest = _digest(text)
        if digest in self._seen:
            found.copies.add(f"{talk.origin} = {self._seen[digest]}")
            return
        self._seen[digest] = talk.origin
        question = next((message["content"] for message in talk.messages if message["role"] == "user"), "")
        self._questions[_digest(question)] += 1
        if (mark := signature(text)) is None:
            return
        near = self._kept.find(mark)
        if near is not None:
            found.near_copies.add(f"{talk.origin} = {near[0]} ({near[1]:.2f})")
        self._kept.keep(talk.origin, mark)


def odd(talk: "tuple[Message, ...]") -> Iterator[str]:
    """What is unusual about a conversation, each thing once."""
    roles = [message["role"] for message in talk]
    answers = [message for message in talk if message["role"] == "assistant"]
    pairs = list(pairwise(talk))
    spoken = [role for role in roles if role != "system"]
    facts = {
        "no answer": not to_be_learned(talk),
        "an empty answer": any(is_empty(message) for message in answers),
        "an empty question": any(m["role"] == "user" and not m["content"].strip() for m in talk),
        "begins with the assistant": spoken[:1] == ["assistant"],
        "ends without an answer": roles[-1] != "assistant",
        "two messages of one role in a row": any(
            one["role"] == two["role"] and one["role"] != "tool" for one, two in pairs
        ),
        "a system message amid the conversation": "system" in roles[1:],
        "a tool's result that nobody called for": any(
            two["role"] == "tool" and one["role"] != "tool" and not _calls(one) for one, two in pairs
        )
        or roles[0] == "tool",
        "a call without a result": any(_calls(one) and two["role"] != "tool" for one, two in pairs),
        "thoughts without an end": any(THINK in m["content"] and THOUGHT not in m["content"] for m in answers),
    }
    return (name for name, holds in facts.items() if holds)


def _said(message: "Message") -> str:
    """What a message says, its calls of tools included."""
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or []]
    return "\n".join([message["content"], *calls]) if calls else message["content"]


def _calls(message: "Message") -> bool:
    return bool(message.get("tool_calls")) or "<tool_call>" in message["content"]


def _digest(text: str) -> bytes:
    return blake2b(" ".join(words(text)).encode(), digest_size=16).digest()


def _render(
    talks: list[Conversation], shown: Conversation | None, tokenizer: "Tokenizer", turns: Turns, found: Inspection
) -> None:
    """What training would make of the conversations, their lengths as it sees them, and the sample."""
    longest = found.context if found.context is not None else 1 << 40
    try:
        rendered = RenderedConversations(talks, tokenizer, longest, turns=turns)
    except DataError as error:
        found.odd[f"nothing can be learned: {error}"] = Noted(len(talks))
    else:
        found.rendering = asdict(rendered.rendering)
        if found.context is None:
            found.whole = Lengths.of(np.diff(rendered.ends, prepend=0).tolist())
        if rendered.refusal:
            found.odd["refused by the chat template"] = Noted(rendered.rendering.refused, [rendered.refusal])
    if shown is not None:
        assert tokenizer.chat
        try:
            found.sample = list(pieces(tokenizer.chat, shown, turns))
        except TokenizerError:  # counted as refused
            found.sample = []


def pieces(chat: "ChatTemplate", talk: Conversation, turns: Turns = "all") -> Iterator[Piece]:
    """A conversation as a model reads it, in stretches that are learned or not; special tokens by themselves."""
    tokenizer = chat.tokenizer
    rendered = chat.render(talk.messages, tools=list(talk.tools) or None, learned=to_be_learned(talk.messages, turns))
    names = {number: token for token, number in tokenizer.special_tokens.items()}
    run: list[int] = []
    state = False
    for number, learned in zip(rendered.ids, rendered.mask, strict=True):
        if run and (learned != state or number in names):
            yield Piece(tokenizer.decode(run, at_start=False), state, False)
            run = []
        state = learned
        if number in names:
            yield Piece(names[number], learned, True)
        else:
            run.append(number)
    if run:
        yield Piece(tokenizer.decode(run, at_start=False), state, False)
