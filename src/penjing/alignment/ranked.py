"""Ranked answers for a reward model: out of published pairs, or drawn from a model and scored.

    {"prompt": [messages], "answers": [[messages], ...], "scores": [1.0, 0.0, ...]}      a line of an answers file

Of a prompt's drawn answers those that say the same are one, for a model that is sure of itself repeats itself. Left out
are prompts whose answers are all equally good, and answers that do not fit into a row with their prompt.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from penjing.alignment.pairs import Pair
from penjing.alignment.reward_model import Ranked
from penjing.alignment.sampled import Sampled
from penjing.data import messages, records
from penjing.errors import ConfigError, DataError
from penjing.files import atomic_file
from penjing.tokenizer.chat import ChatTokens

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer

T = TypeVar("T")


def of_pairs(pairs: Iterable[Pair], *, margins: bool = False) -> list[Ranked]:
    """Pairs as prompts of two answers; with `margins` scores are to be as far apart as the data says."""
    return [Ranked(pair.answers, (1.0, 0.0), (pair.margin or 0.0) if margins else 0.0) for pair in pairs]


def of_sampled(sampled: Sequence[Sampled], tokenizer: "Tokenizer", context: int) -> list[Ranked | None]:
    """Each prompt with its answers as tokens, in the prompts' order; None where nothing can be compared.

    Raises:
        ConfigError: the tokenizer has no chat template.
    """
    chat = tokenizer.chat
    if chat is None:
        raise ConfigError("the tokenizer has no chat template; a reward model reads conversations")
    found: list[Ranked | None] = []
    for one in sampled:
        scores = dict(zip(map(_text, one.answers), one.scores, strict=True))
        different = {_text(answer): answer for answer in one.answers}
        rendered = {text: chat.render([*one.prompt, *answer]) for text, answer in different.items()}
        kept = [text for text, tokens in rendered.items() if len(tokens.ids) <= context and any(tokens.mask)]
        ranks = tuple(scores[text] for text in kept)
        alike = len(set(ranks)) < 2
        found.append(None if alike else Ranked(tuple(rendered[text] for text in kept), ranks))
    return found


def reference_answers(items: Iterable[Any], tokenizer: "Tokenizer", context: int) -> list[ChatTokens]:
    """The reference conversations of the world's items, those that fit into a row."""
    chat = tokenizer.chat
    if chat is None:
        raise ConfigError("the tokenizer has no chat template; a reward model reads conversations")
    rendered = (chat.render(item.messages) for item in items)
    return [tokens for tokens in rendered if len(tokens.ids) <= context]


def answerable(items: Iterable[T], tokenizer: "Tokenizer", context: int, room: int) -> list[T]:
    """The items whose prompts leave room for so many tokens of an answer in the context."""
    chat = tokenizer.chat
    if chat is None:
        raise ConfigError("the tokenizer has no chat template; a reward model reads conversations")
    prompts = ((item, cast(Any, item).prompt) for item in items)
    return [
        item for item, prompt in prompts if len(chat.render(prompt, add_generation_prompt=True).ids) + room <= context
    ]


def write_sampled(path: Path, sampled: Iterable[Sampled]) -> None:
    """Writes drawn answers and their scores, a prompt a line.

    Raises:
        PenjingError: the file could not be written.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for one in sampled:
            record = {"prompt": one.prompt, "answers": one.answers, "scores": one.scores}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_sampled(path: Path) -> list[Sampled]:
    """The drawn answers of a file.

    Raises:
        DataError: it is missing, damaged, or another kind of file.
    """
    return [_parsed(record.value, record.where) for record in records.read(path)]


def _parsed(value: Any, where: str) -> Sampled:
    known = isinstance(value, dict) and all(isinstance(value.get(n), list) for n in ("prompt", "answers", "scores"))
    if not known or len(value["answers"]) != len(value["scores"]):
        raise DataError(f"{where}: no prompt with answers and a score for each")
    if not all(isinstance(score, int | float) for score in value["scores"]):
        raise DataError(f"{where}: a score is no number")
    prompt = tuple(messages.turn(turn, where) for turn in value["prompt"])
    answers = tuple(tuple(messages.turn(turn, where) for turn in answer) for answer in value["answers"])
    return Sampled(prompt, answers, tuple(map(float, value["scores"])))


def _text(answer: Sequence[Any]) -> str:
    return json.dumps(answer, ensure_ascii=False)
