"""What of a conversation the model is told, when not all of it has room.

A turn is a message of the user and all up to the next one. Kept are, in this order of worth: the system prompt, the
last turn, turns with a pinned message, and of the others as many of the newest as fit; turns are left out whole, so
that no answer stands without its question. What the policy blocked is never told.

    room     = min(max_new_tokens, context / 4)          kept free for the answer
    budget   = context - room                            tokens of the prompt, as the model's own template counts them

With `context = "summary"` the turns left out are summarized by the model itself, and the summary follows the system
prompt. It is a rolling one: the next begins with the one before and the turns since. A summary belongs to the message
that it reaches to, so that every branch through that message has it, and none is ever out of date. So that not every
turn costs one, a summary is made of so much that half of the budget is free again.

Source: the rolling summary is that of Wang et al., "Recursively Summarizing Enables Long-Term Dialogue Memory in Large
Language Models", 2023, arXiv:2308.15022, section 3.
Departs from it: the summary is of turns left out only, not of the whole conversation after every session.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from penjing.inference.sampling import Sampling
from penjing.serving.backend import Ask, Backend, Text, TooLongError
from penjing.serving.conversations.records import Message, Settings, storable
from penjing.serving.conversations.spoken import spoken

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message as Spoken

Turn = tuple[Message, ...]
Count = Callable[["Sequence[Spoken]"], int]

_ANSWER_SHARE = 4
_SUMMARY_SHARE = 8
_LONGEST_SUMMARY = 512
_CHINESE_SHARE = 0.2
_INTRODUCTION = {
    "en": "What was said before, in short: {summary}",
    "zh": "此前对话的摘要：{summary}",
}
_REQUEST = {
    "en": (
        "{before}Here is a part of a conversation:\n\n{transcript}\n\nWrite a short summary of all of this: facts, "
        "names, numbers, decisions, open questions, and what the user wants. Only the summary."
    ),
    "zh": (
        "{before}下面是一段对话：\n\n{transcript}\n\n请把以上全部内容写成简短的摘要：事实、名字、数字、决定、"
        "未解决的问题，以及用户想要什么。只写摘要。"
    ),
}
_BEFORE = {"en": "Summary of what came before: {summary}\n\n", "zh": "此前的摘要：{summary}\n\n"}
_SPEAKERS = {"en": {"user": "User", "assistant": "Assistant"}, "zh": {"user": "用户", "assistant": "助手"}}


@dataclass(frozen=True)
class Plan:
    """What the model is told, and what that costs."""

    messages: "tuple[Spoken, ...]"
    tokens: int
    """Of the prompt; more than `context - room` where it does not fit."""
    context: int
    room: int
    """Tokens kept for the answer."""
    turns: int
    dropped: int
    """Turns that the model does not see in full any more."""
    pinned: int
    """Turns that stay because a message in them is pinned."""
    summarised: bool
    wanted: int | None = None
    """How many turns are to be summarized for this to fit; None: no summary is missing."""

    @property
    def fits(self) -> bool:
        """Whether there is room for the answer."""
        return self.tokens <= self.context - self.room

    def to_dict(self) -> dict[str, Any]:
        """The budget, as the page shows it."""
        names = ("tokens", "context", "room", "turns", "dropped", "pinned", "summarised")
        return {name: getattr(self, name) for name in names}


def turns_of(path: Sequence[Message]) -> list[Turn]:
    """The turns of a branch, without what was blocked."""
    turns: list[list[Message]] = []
    for message in path:
        if message.status == "blocked":
            continue
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return [tuple(turn) for turn in turns]


def plan(count: Count, context: int, settings: Settings, path: Sequence[Message], summaries: Mapping[str, str]) -> Plan:
    """What of a branch is told.

    Args:
        count: the tokens of a prompt.
        context: the tokens that prompt and answer may have together.
        settings: the conversation's.
        path: the branch; its last message is the user's, or a reply (then its budget is that of a next question).
        summaries: those there are, by the message that they reach to.
    """
    turns = turns_of(path)
    pinned = [any(message.pinned for message in turn) for turn in turns]
    room = _room(settings, context)
    budget = context - room

    def made(left_out: Sequence[int], summary: str = "") -> Plan:
        out = set(left_out)
        told = _assembled(settings.system, [turn for place, turn in enumerate(turns) if place not in out], summary)
        tokens = count(told) if told else 0
        return Plan(tuple(told), tokens, context, room, len(turns), len(out), sum(pinned), bool(summary))

    whole = made([])
    if whole.fits or len(turns) < 2:
        return whole
    may_go = [place for place in range(len(turns) - 1) if not pinned[place]]

    def trimmed(limit: int, summary: str = "", first: int = 0) -> tuple[int, Plan]:
        """The fewest of the oldest turns to leave out so that at most `limit` tokens remain, `first` at least."""
        low, high = first, len(may_go)
        while low < high:  # fewer tokens remain with every turn that goes
            middle = (low + high) // 2
            if made(may_go[:middle], summary).tokens <= limit:
                high = middle
            else:
                low = middle + 1
        return low, made(may_go[:low], summary)

    if settings.context == "trim" or not may_go:
        return trimmed(budget)[1]
    best: tuple[int, str] = (0, "")
    for place, turn in enumerate(turns[:-1]):
        if turn[-1].id in summaries:
            best = (place + 1, summaries[turn[-1].id])
    reached, summary = best
    if summary:
        made_with = made([place for place in may_go if place < reached], summary)
        if made_with.fits:
            return made_with
    known = sum(place < reached for place in may_go)
    number, fallback = trimmed(budget // 2, first=known)
    wanted = may_go[number - 1] + 1 if number > known else None
    return replace(fallback, wanted=wanted) if wanted else trimmed(budget, summary, known)[1]


async def prepare(
    backend: Backend,
    settings: Settings,
    path: Sequence[Message],
    summaries: Mapping[str, str],
    keep: Callable[[str, str], Any],
) -> Plan:
    """What the model is told, with the summary that it takes made by the model.

    Args:
        backend: the model.
        settings: the conversation's.
        path: the branch, its last message the user's.
        summaries: those there are, by message.
        keep: is told of a new summary: the message that it reaches to, and its text.

    Raises:
        TooLongError: the last turn does not fit, with the pinned ones and the system prompt.
        PenjingError: the model failed.
    """
    summaries = dict(summaries)
    while True:
        found = await asyncio.to_thread(plan, backend.count, backend.context, settings, path, summaries)
        if found.wanted is None:
            break
        turns = turns_of(path)
        reached = turns[found.wanted - 1][-1].id
        summaries[reached] = await _summarized(backend, turns[: found.wanted], summaries)
        keep(reached, summaries[reached])
    if not found.fits:
        pinned = ", the pinned ones" if found.pinned else ""
        raise TooLongError(
            f"the last message with{pinned} and the system prompt takes {found.tokens:,} tokens; only "
            f"{found.context - found.room:,} fit: make it shorter{', unpin some' if found.pinned else ''}, or allow "
            f"fewer tokens for the answer"
        )
    return found


def _room(settings: Settings, context: int) -> int:
    return min(settings.sampling.get("max_new_tokens") or context, context // _ANSWER_SHARE)


def _assembled(system: str, turns: Sequence[Turn], summary: str) -> "list[Spoken]":
    said = [one for turn in turns for message in turn for one in spoken(message)]
    head = [system] if system else []
    if summary:
        head.append(_INTRODUCTION[_language(summary)].format(summary=summary))
    first: list[Spoken] = [{"role": "system", "content": "\n\n".join(head)}] if head else []
    return first + said


async def _summarized(backend: Backend, turns: Sequence[Turn], summaries: Mapping[str, str]) -> str:
    """A summary of all these turns, from the last one there is and the turns since, a promptful at a time."""
    reached = max((place + 1 for place, turn in enumerate(turns) if turn[-1].id in summaries), default=0)
    summary = summaries[turns[reached - 1][-1].id] if reached else ""
    length = max(1, min(_LONGEST_SUMMARY, backend.context // _SUMMARY_SHARE))
    sampling = Sampling(temperature=0, max_new_tokens=length)
    left = [part for turn in turns[reached:] for part in _transcript(turn)]
    language = _language("".join(left))
    while left:
        taken, request = await asyncio.to_thread(_request, backend, language, summary, left, length)
        left = left[taken:]
        said = ""
        async with aclosing(backend.answer(Ask([{"role": "user", "content": request}], sampling))) as pieces:
            async for piece in pieces:
                said += piece.text if isinstance(piece, Text) else ""
        summary = storable(said.strip()) or summary
    return summary or "…"


def _request(backend: Backend, language: str, summary: str, left: list[str], length: int) -> tuple[int, str]:
    """The longest request that fits, and how many parts of `left` it takes; a part too long by itself is cut."""
    before = _BEFORE[language].format(summary=summary) if summary else ""
    budget = backend.context - length

    def written(parts: Sequence[str]) -> str:
        return _REQUEST[language].format(before=before, transcript="\n\n".join(parts))

    def fits(request: str) -> bool:
        return backend.count([{"role": "user", "content": request}]) <= budget

    low, high = 0, len(left)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(written(left[:middle])):
            low = middle
        else:
            high = middle - 1
    if low:
        return low, written(left[:low])
    part = left[0]
    while len(part) > 1:
        part = part[: len(part) // 2]
        if fits(written([part + "…"])):
            return 1, written([part + "…"])
    raise TooLongError(
        "there is no room for a summary in the model's context: set the conversation's context to 'trim'"
    )


def _transcript(turn: Turn) -> list[str]:
    names = _SPEAKERS[_language("".join(message.content for message in turn))]
    return [f"{names[message.role]}: {message.content}" for message in turn if message.content.strip()]


def _language(text: str) -> str:
    """Chinese where a fifth of the letters are; English otherwise."""
    letters = [character for character in text if character.isalpha()]
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in letters)
    return "zh" if letters and chinese / len(letters) >= _CHINESE_SHARE else "en"
