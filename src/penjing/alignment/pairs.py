"""Preferences as tokens: pairs of answers and answers judged alone, ready to be packed, and what was left out.

A prompt and its answer are one conversation to the chat template, as in instruction tuning. What counts is the answer
alone: what the assistant said in the prompt's earlier turns is read, and compared with nothing.

Left out, and counted: a pair of equal answers (nothing is preferred), an answer without text (nothing to learn), an
answer that is longer with its prompt than a row (cut short it would be another answer).

For KTO each answer has besides a *mismatched* one, another prompt's, from which the divergence is estimated. It is the
next item's whose prompt is another, so that it does not depend on what else is in a batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from penjing.alignment.batch import AnswerBatch, pack
from penjing.data.preferences import Comparison, Judged
from penjing.errors import ConfigError, DataError
from penjing.tokenizer.chat import ChatTokens

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import ChatTemplate, Message


@dataclass(frozen=True)
class Rendering:
    """What became of the preferences."""

    used: int
    """Pairs, or answers judged alone, that are learned from."""
    equal: int
    """Pairs that were left out because both answers are the same."""
    empty: int
    """Left out because an answer has no text."""
    too_long: int
    """Left out because an answer does not fit into a row with its prompt."""
    tokens: int
    counted: int
    """How many of the tokens used are of the answers."""

    def __add__(self, other: "Rendering") -> "Rendering":
        return Rendering(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __str__(self) -> str:
        return (
            f"{self.used:,} preferences, {self.tokens:,} tokens ({self.counted:,} of the answers); left out: "
            f"{self.equal:,} of equal answers, {self.empty:,} with an empty one, {self.too_long:,} too long"
        )


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, as tokens of whole conversations."""

    chosen: ChatTokens
    rejected: ChatTokens
    margin: float | None = None
    origin: str = ""
    reference: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False)
    """The reference's log-probabilities of each token of the two answers."""

    @property
    def answers(self) -> tuple[ChatTokens, ChatTokens]:
        """Both, the chosen one first."""
        return self.chosen, self.rejected


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer that is good or bad, and another prompt's answer to the same prompt."""

    answer: ChatTokens
    mismatched: ChatTokens
    desirable: bool
    origin: str = ""
    reference: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False)

    @property
    def answers(self) -> tuple[ChatTokens, ChatTokens]:
        """The answer and the mismatched one."""
        return self.answer, self.mismatched


@dataclass(frozen=True)
class PairBatch(AnswerBatch):
    """Pairs, packed: the chosen answers come first, then the rejected ones in the same order."""

    reference: Float[Tensor, " counted"] | None = None
    """The reference's log-probability of each counted token."""
    margins: Float[Tensor, " pairs"] | None = None
    """How much better the chosen ones are; 0 where nobody said."""

    @property
    def pairs(self) -> int:
        """How many there are."""
        return self.answers // 2


@dataclass(frozen=True)
class Scored(AnswerBatch):
    """Packed answers with the reference's log-probability of each counted token."""

    reference: Float[Tensor, " counted"] | None = None


@dataclass(frozen=True)
class JudgedBatch(Scored):
    """Answers judged alone, packed, and beside them their mismatched ones."""

    desirable: Bool[Tensor, " answers"] | None = None
    mismatched: Scored | None = None
    reference_point: Float[Tensor, ""] | None = None
    """The divergence from the reference over all of a step's batches, once somebody has found it."""

    def to(self, device: torch.device | str) -> "JudgedBatch":
        """The same batch on another device."""
        moved = super().to(device)
        inner = None if self.mismatched is None else self.mismatched.to(device)
        other = replace(moved, mismatched=inner)
        other.__dict__["counted"] = moved.counted
        return other


def render_pairs(
    comparisons: Iterable[Comparison], tokenizer: "Tokenizer", context: int
) -> tuple[list[Pair], Rendering]:
    """The pairs that can be learned from, and what was left out.

    Args:
        comparisons: what was preferred.
        tokenizer: has the chat template.
        context: input tokens of a row.

    Raises:
        ConfigError: the tokenizer has no chat template.
        DataError: no pair can be used.
    """
    chat = _template(tokenizer)
    pairs: list[Pair] = []
    equal = empty = too_long = 0
    for one in comparisons:
        if one.chosen == one.rejected:
            equal += 1
        elif not _says_something(one.chosen) or not _says_something(one.rejected):
            empty += 1
        else:
            chosen, rejected = (_rendered(chat, one, answer) for answer in (one.chosen, one.rejected))
            if max(len(chosen.ids), len(rejected.ids)) - 1 > context:
                too_long += 1
            elif chosen.ids == rejected.ids:
                equal += 1
            else:
                pairs.append(Pair(chosen, rejected, one.margin, one.origin))
    rendering = _rendering(len(pairs), equal, empty, too_long, [one for pair in pairs for one in pair.answers], context)
    return pairs, rendering


def render_judged(
    judged: Iterable[Judged], tokenizer: "Tokenizer", context: int
) -> tuple[list[JudgedAnswer], Rendering]:
    """The judged answers that can be learned from, and what was left out. Arguments and errors as of `render_pairs`.

    Raises:
        DataError: also where all answers are to one prompt, so that none is mismatched.
    """
    chat = _template(tokenizer)
    kept: list[tuple[Judged, ChatTokens]] = []
    empty = too_long = 0
    for one in judged:
        if not _says_something(one.answer):
            empty += 1
            continue
        tokens = _rendered(chat, one, one.answer)
        if len(tokens.ids) - 1 > context:
            too_long += 1
        else:
            kept.append((one, tokens))
    rendering = _rendering(len(kept), 0, empty, too_long, [tokens for _, tokens in kept], context)
    found = []
    for (one, tokens), other in zip(kept, _others([one for one, _ in kept]), strict=True):
        mismatched = _rendered(chat, one, other.answer)
        fitting = ChatTokens(mismatched.ids[: context + 1], mismatched.mask[: context + 1])
        found.append(JudgedAnswer(tokens, fitting, one.desirable, one.origin))
    return found, rendering


def pack_pairs(pairs: Sequence[Pair], origin: str = "", row: int | None = None) -> PairBatch:
    """A batch of pairs; `row` as in `pack`."""
    answers = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    batch = pack(answers, PairBatch, origin=origin, row=row)
    margins = torch.tensor([pair.margin or 0.0 for pair in pairs])
    known = [pair.reference for pair in pairs if pair.reference is not None]
    if len(known) < len(pairs):
        return replace(batch, margins=margins)
    reference = batch.spread([*(chosen for chosen, _ in known), *(rejected for _, rejected in known)])
    return replace(batch, margins=margins, reference=reference)


def pack_judged(judged: Sequence[JudgedAnswer], origin: str = "", row: int | None = None) -> JudgedBatch:
    """A batch of judged answers; `row` as in `pack`."""
    batch = pack([one.answer for one in judged], JudgedBatch, origin=origin, row=row)
    others = pack([one.mismatched for one in judged], Scored, origin=origin, row=row)
    known = [one.reference for one in judged if one.reference is not None]
    reference = None
    if len(known) == len(judged):
        reference = batch.spread([own for own, _ in known])
        others = replace(others, reference=others.spread([other for _, other in known]))
    desirable = torch.tensor([one.desirable for one in judged])
    return replace(batch, reference=reference, desirable=desirable, mismatched=others)


def _template(tokenizer: "Tokenizer") -> "ChatTemplate":
    if tokenizer.chat is None:
        raise ConfigError("the tokenizer has no chat template; learning from preferences needs one")
    return tokenizer.chat


def _says_something(answer: "Sequence[Message]") -> bool:
    return any(message["role"] == "assistant" and message["content"].strip() for message in answer[-1:])


def _rendered(chat: "ChatTemplate", one: Comparison | Judged, answer: "Sequence[Message]") -> ChatTokens:
    """The prompt and an answer, of which the answer alone counts."""
    tools = list(one.tools) or None
    whole = chat.render([*one.prompt, *answer], tools=tools)
    before = 0
    if any(message["role"] == "assistant" for message in one.prompt):
        before = sum(chat.render(one.prompt, tools=tools).mask)
    mask = []
    for counts in whole.mask:
        mask.append(counts and before <= 0)
        before -= counts
    return ChatTokens(whole.ids, mask)


def _others(judged: Sequence[Judged]) -> list[Judged]:
    """For each answer the next one, in a circle, whose prompt is another."""
    others: list[Judged | None] = [None] * len(judged)
    following: Judged | None = None  # the next one after this run of equal prompts
    for number in range(2 * len(judged) - 1, -1, -1):
        here, after = judged[number % len(judged)], judged[(number + 1) % len(judged)]
        if here.prompt != after.prompt:
            following = after
        if number < len(judged):
            others[number] = following
    if following is None:
        raise DataError("all answers are to the same prompt; KTO needs answers to others to compare with")
    return [other for other in others if other is not None]


def _rendering(
    used: int, equal: int, empty: int, too_long: int, answers: Sequence[ChatTokens], context: int
) -> Rendering:
    if not used:
        raise DataError(
            f"no preference can be used: {equal} are of equal answers, {empty} have an empty answer, "
            f"{too_long} are longer than the context of {context}"
        )
    tokens, counted = (sum(len(one.ids) for one in answers), sum(sum(one.mask) for one in answers))
    return Rendering(used, equal, empty, too_long, tokens, counted)
