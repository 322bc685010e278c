"""/v1/completions: texts continued, whole or as they come.

Source: OpenAI API reference, "Completions"; the specification github.com/openai/openai-openapi, version 2.3.0.
Departs from it: what is not supported (`suffix`, `best_of`) is an error that names it; without `max_tokens` an answer
has 16 tokens at most, as there; `top_k`, `min_p` and `repetition_penalty` are known.
"""

import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.responses import Response

from penjing.errors import PenjingError
from penjing.inference.chat_model import End, Text, Usage
from penjing.inference.sampling import Sampling
from penjing.serving.api.common import (
    Settings,
    Short,
    StreamOptions,
    UsageBody,
    check_length,
    check_samples,
    finite,
    new_id,
    usage_of,
)
from penjing.serving.api.errors import answered_by, api_error, bad
from penjing.serving.api.guard import Filtered, Guarded, refused, said
from penjing.serving.api.streams import DONE, EventStream, begun, event_of, interleaved, until_error, while_connected
from penjing.serving.backend import Chosen, Continuation, Piece, TextBackend

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=2048)]
ManyIds = Annotated[list[Ids], Field(min_length=1, max_length=2048)]

_USUAL = 16  # new tokens, where a request does not say


class CompletionRequest(Settings):
    """Texts to continue."""

    model: Short
    prompt: str | Texts | Ids | ManyIds
    """A text, or several, or their token ids."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """How many tokens a continuation has at most, never more than the context leaves; 0 only with `echo`."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """The log-probability of each token, and of this many of the most probable ones."""
    echo: bool | None = None
    """Whether the prompt comes first."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class CompletionLogprobs(BaseModel):
    """The log-probabilities of a text's tokens."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]


class Completion(BaseModel):
    """The continuations."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageBody


Pieces = AsyncGenerator[tuple[int, Piece | Filtered]]


@dataclass
class _Answer:
    """One continuation, as far as it has come."""

    text: str = ""
    tokens: list[Chosen] = field(default_factory=list)
    reason: str = "stop"
    filtered: bool = False
    usage: Usage = field(default_factory=Usage)
    _offset: int = 0

    def add(self, piece: Piece | Filtered) -> None:
        match piece:
            case Text(text):
                self.text += text
            case Chosen():
                self.tokens.append(piece)
            case Filtered(message):
                self.filtered = True
                self.text = self.text or message
            case End(reason, usage):
                self.usage = usage
                self.reason = "content_filter" if self.filtered else reason

    def logprobs(self) -> dict[str, Any]:
        """Of the tokens that came since the last time."""
        tokens, self.tokens = self.tokens, []
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token.text)
        known = [not math.isnan(token.logprob) for token in tokens]
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [
                finite(token.logprob) if is_known else None for token, is_known in zip(tokens, known, strict=True)
            ],
            "top_logprobs": [
                _by_text(token) if is_known else None for token, is_known in zip(tokens, known, strict=True)
            ],
            "text_offset": offsets,
        }


def _by_text(token: Chosen) -> dict[str, float]:
    """The most probable tokens by their text; of several with the same text, the most probable."""
    found: dict[str, float] = {}
    for other in token.top:
        found.setdefault(other.text, finite(other.logprob))
    return found


def router() -> APIRouter:
    """POST /v1/completions."""
    routes = APIRouter()

    @routes.post("/v1/completions", tags=["openai"], response_model=None, responses=answered_by(Completion))
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continues texts."""
        head = {"id": new_id("cmpl-"), "object": "text_completion", "created": int(time.time()), "model": body.model}
        pieces, count = await while_connected(request, _ask(body, request))
        answers = [_Answer() for _ in range(count)]
        if not body.stream:
            return JSONResponse(head | await while_connected(request, _whole(body, pieces, answers)))
        return EventStream(until_error(_events(body, head, pieces, answers)), pieces)

    return routes


async def _ask(body: CompletionRequest, request: Request) -> tuple[Pieces, int]:
    """Asks the model for all continuations, and waits until they begin; also how many there are."""
    limits = request.app.state.limits
    check_samples(body.n or 1, limits.samples)
    prompts: list[str | tuple[int, ...]]
    if isinstance(body.prompt, str):
        prompts = [body.prompt]
    elif isinstance(body.prompt[0], int):
        prompts = [tuple(id for id in body.prompt if isinstance(id, int))]
    else:
        prompts = [prompt if isinstance(prompt, str) else tuple(_ints(prompt)) for prompt in body.prompt]
    if len(prompts) > limits.inputs:
        raise bad(f"'prompt' has {len(prompts)} texts; at most {limits.inputs} are continued", "prompt")
    check_length([prompt for prompt in prompts if isinstance(prompt, str)], limits.prompt, "prompt")
    if body.stream_options is not None and not body.stream:
        raise bad("'stream_options' is for streams only", "stream_options")
    if body.max_tokens == 0 and not body.echo:
        raise bad("'max_tokens' is 0; that asks for nothing without 'echo': true", "max_tokens")
    backend = await request.app.state.backends.get(body.model)
    if not isinstance(backend, TextBackend):
        raise bad(f"the model '{body.model}' runs elsewhere; it answers conversations only", "model")
    guarded = Guarded(request, body.user)
    most = _USUAL if body.max_tokens is None else body.max_tokens
    sampling = body.over(backend.defaults, most=most or None, logprobs=body.logprobs)
    sources = []
    for prompt in prompts:
        sources += await _continue(body, prompt, backend, sampling, guarded)
    return await begun(interleaved(sources)), len(sources)


def _ints(ids: Any) -> Sequence[int]:
    return list(ids)


async def _continue(
    body: CompletionRequest,
    prompt: str | tuple[int, ...],
    backend: TextBackend,
    sampling: Sampling,
    guarded: Guarded,
) -> list[AsyncGenerator[Piece | Filtered]]:
    try:
        text = prompt if isinstance(prompt, str) else backend.decode(prompt)
    except PenjingError as error:
        raise api_error(error, "prompt") from None
    passed, blocked = await guarded.text(text, "input")
    if blocked is not None:
        cost = len(backend.encode(text)) if isinstance(prompt, str) else len(prompt)
        return [said(refused(blocked, cost)) for _ in range(body.n or 1)]
    if passed != text:
        prompt = passed
    return [
        guarded.answer(
            _blaming(
                backend.complete(
                    Continuation(prompt, sampling, echo=bool(body.echo), only_echo=body.max_tokens == 0, sample=number)
                )
            ),
            lambda text: len(backend.encode(text, begin=False)),
        )
        for number in range(body.n or 1)
    ]


async def _blaming(pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    try:
        async for piece in pieces:
            yield piece
    except PenjingError as error:
        raise api_error(error, "prompt") from None
    finally:
        await pieces.aclose()


def _usage(body: CompletionRequest, answers: Sequence[_Answer]) -> dict[str, Any]:
    """What all continuations cost; a prompt counts once."""
    by_prompt = [answers[first : first + (body.n or 1)] for first in range(0, len(answers), body.n or 1)]
    prompts = [group[0].usage for group in by_prompt]
    total = Usage(
        sum(usage.prompt_tokens for usage in prompts),
        sum(answer.usage.completion_tokens for answer in answers),
        sum(usage.cached_tokens for usage in prompts),
    )
    return usage_of([total])


async def _whole(body: CompletionRequest, pieces: Pieces, answers: list[_Answer]) -> dict[str, Any]:
    try:
        async for number, piece in pieces:
            answers[number].add(piece)
    finally:
        await pieces.aclose()
    choices = [
        {
            "index": number,
            "text": answer.text,
            "logprobs": None if body.logprobs is None else answer.logprobs(),
            "finish_reason": answer.reason,
        }
        for number, answer in enumerate(answers)
    ]
    return {"choices": choices, "usage": _usage(body, answers)}


async def _events(
    body: CompletionRequest, head: Mapping[str, Any], pieces: Pieces, answers: list[_Answer]
) -> AsyncGenerator[bytes]:
    with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)

    def chunk(number: int, text: str, reason: str | None = None) -> bytes:
        logprobs = None if body.logprobs is None else answers[number].logprobs()
        choice = {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return event_of({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    try:
        async for number, piece in pieces:
            answer = answers[number]
            before = len(answer.text)
            answer.add(piece)
            if len(answer.text) > before:
                yield chunk(number, answer.text[before:])
            if isinstance(piece, End):
                yield chunk(number, "", answer.reason)
        if with_usage:
            yield event_of({**head, "choices": [], "usage": _usage(body, answers)})
        yield DONE
    finally:
        await pieces.aclose()
