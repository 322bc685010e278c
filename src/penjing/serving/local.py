"""Models of this server as its backends: the chat template, an engine, tool calls, constraints.

    conversation -> prompt -> tokens of the engine -> turn of text and calls -> pieces
                      ^                                   |
                      +------ results of our own tools <--+

`inference.local.LocalChatModel` does the same for one conversation and one thread; what a turn is, what a prompt is and
which tools are run is the same code or the same rule.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from penjing.errors import GenerationError, TokenizerError
from penjing.inference.chat_model import End, Text, Tool, Usage, check_messages
from penjing.inference.engine.request import Token
from penjing.inference.sampling import DEFAULT, Sampling
from penjing.inference.text import decoder_of, encode_prompt, end_ids
from penjing.inference.tools import ROUNDS, run_call, why_over
from penjing.inference.turn import Turn
from penjing.nn.mode import evaluation_mode
from penjing.serving.backend import Alternative, Ask, Chosen, Continuation, Piece, TooLongError
from penjing.serving.constraints import shape_of
from penjing.serving.metrics import Metrics
from penjing.serving.service import EngineService, Job

if TYPE_CHECKING:
    from penjing.models.encoder import Encoder
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import Message

LOOKED_AT = 8
"""Alternatives of each token that `Ask.look` shows."""


_SHORT = 1 << 13
"""Characters of messages that are tokenized at once; more are tokenized in a thread, for that takes its time."""


class LocalBackend:
    """Answers with a language model of this server's.

    Args:
        name: what it is called.
        tokenizer: the model's.
        context: how many tokens the model can read.
        hold: gives the loaded model's engine, and keeps it loaded as long as the context lasts.
        defaults: the settings that the model prefers.
        tools: functions that the model has learned to call, by name; they are run here.
        metrics: is told of times and tokens.
    """

    def __init__(
        self,
        name: str,
        tokenizer: "Tokenizer",
        context: int,
        hold: Callable[[], AbstractAsyncContextManager[EngineService]],
        *,
        defaults: Sampling = DEFAULT,
        tools: Mapping[str, Callable[..., object]] | None = None,
        metrics: Metrics | None = None,
    ):
        self.name = name
        self.tokenizer = tokenizer
        self.context = context
        self.defaults = defaults
        self.tools = dict(tools or {})
        self._hold = hold
        self._metrics = metrics
        self._words = threading.Lock()  # one thread at a time encodes

    async def run(self, work: Callable[..., Any], **arguments: Any) -> Any:
        """`work(model, tokenizer, **arguments)` while no one else uses the model; see `EngineService.run`."""
        async with self._hold() as service:
            return await service.run(work, **arguments)

    # conversations

    def count(self, messages: "Sequence[Message]", tools: Sequence[Tool] = ()) -> int:
        """See `Backend.count`."""
        return len(self.prompt_of(messages, tools))

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece]:
        """See `Backend.answer`."""
        check_messages(ask.messages)
        began = time.perf_counter()
        choice = ask.tool_choice
        described = () if choice == "none" else tuple(ask.tools)
        run = {} if choice == "none" else self.tools | {tool.name: tool.run for tool in described if tool.run}
        theirs = {tool.name for tool in described if tool.run is None}
        run = {name: function for name, function in run.items() if name not in theirs}
        messages, usage, rounds_left = list(ask.messages), Usage(), ROUNDS
        async with self._hold() as service:
            while True:
                first = len(messages) == len(ask.messages)
                prompt = await self._prompt(messages, described)
                sampling = self._within(ask.sampling, prompt, ask.look)
                turn = Turn(
                    decoder_of(self.tokenizer, at_start=True),
                    sampling.stop,
                    id=f"call-{len(messages)}",
                    calls=choice != "none",
                )
                shape, ends = shape_of(ask, first=first), end_ids(self.tokenizer)
                job = service.submit(prompt, sampling, stop_ids=ends, shape=shape, sample=ask.sample)
                batches = service.tokens_of(job)
                reading = _Reading(self, turn, hidden=True)
                try:
                    async for tokens in batches:
                        if began:
                            self._tell_first(began)
                            began = 0.0
                        for piece in reading.pieces(tokens):
                            yield piece
                        if turn.over:
                            break
                finally:
                    await batches.aclose()
                    usage += self._cost(prompt, job, reading.count)
                messages.append({"role": "assistant", "content": turn.content})
                reason = why_over(turn.calls, turn.reason, rounds_left, theirs)
                if reason is not None:
                    break
                for call in turn.calls:
                    result = await asyncio.to_thread(run_call, call, run)
                    yield result
                    messages.append({"role": "tool", "content": result.content})
                rounds_left -= 1
        yield End(reason, usage, tuple(messages[len(ask.messages) :]))

    async def _prompt(self, messages: "Sequence[Message]", tools: Sequence[Tool]) -> list[int]:
        if sum(len(message["content"] or "") for message in messages) <= _SHORT:
            return self.prompt_of(messages, tools)
        return await asyncio.to_thread(self.prompt_of, messages, tools)

    def prompt_of(self, messages: "Sequence[Message]", tools: Sequence[Tool]) -> list[int]:
        """The token ids that the model is asked with.

        Raises:
            GenerationError: as of `count`.
        """
        if self.tokenizer.chat is None:
            raise GenerationError(
                f"the model '{self.name}' has no chat template: it continues text, it was not trained to chat"
            )
        described = [tool.to_dict() for tool in tools] or None
        try:
            with self._words:
                return self.tokenizer.chat.render(messages, add_generation_prompt=True, tools=described).ids
        except TokenizerError as error:
            raise GenerationError(str(error)) from None

    # texts

    async def complete(self, ask: Continuation) -> AsyncGenerator[Piece]:
        """See `TextBackend.complete`."""
        began = time.perf_counter()
        prompt = list(ask.prompt) if isinstance(ask.prompt, tuple) else await asyncio.to_thread(self._ids, ask.prompt)
        self._check_ids(prompt)
        async with self._hold() as service:
            sampling = self._within(ask.sampling, prompt)
            if ask.only_echo:
                sampling = replace(sampling, max_new_tokens=1)
            scored = ask.echo and sampling.logprobs is not None
            ends = end_ids(self.tokenizer)
            job = service.submit(prompt, sampling, stop_ids=ends, sample=ask.sample, prompt_logprobs=scored)
            batches = service.tokens_of(job)
            turn = Turn(decoder_of(self.tokenizer, at_start=False), sampling.stop, calls=False)
            reading = _Reading(self, turn)
            reason = "length"
            try:
                async for tokens in batches:
                    if began:
                        self._tell_first(began)
                        began = 0.0
                        for echoed in self._echoed(ask, prompt, job) if ask.echo else ():
                            yield echoed
                        if ask.only_echo:
                            break
                    for piece in reading.pieces(tokens):
                        yield piece
                    if turn.over:
                        reason = turn.reason
                        break
            finally:
                await batches.aclose()
                usage = self._cost(prompt, job, reading.count)
        yield End("stop" if reason == "stop" else "length", usage, ())

    def _echoed(self, ask: Continuation, prompt: Sequence[int], job: Job) -> Iterator[Piece]:
        """The prompt, as pieces."""
        if ask.sampling.logprobs is not None:
            scores = [(math.nan, ()), *(job.prompt_logprobs or ())]
            for id, (logprob, top) in zip(prompt, scores, strict=False):
                yield self.chosen(Token(0, id, logprob, tuple(top)))
        known = isinstance(ask.prompt, str)
        yield Text(ask.prompt if known and isinstance(ask.prompt, str) else self.decode(prompt))

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """See `TextBackend.encode`."""
        with self._words:
            return [*(self.tokenizer.prefix_ids if begin else ()), *self.tokenizer.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """See `TextBackend.decode`."""
        self._check_ids(ids)
        return self.tokenizer.decode(ids)

    async def embed(self, texts: "Sequence[str | Sequence[int]]") -> tuple[list[list[float]], int]:
        """See `Embedder.embed`."""
        vectors: list[list[float]] = []
        read = 0
        async with self._hold() as service:
            for number, text in enumerate(texts):
                ids = await asyncio.to_thread(self._ids, text) if isinstance(text, str) else list(text)
                self._check_ids(ids)
                if not ids:
                    raise GenerationError(f"text {number} is empty")
                if len(ids) > self.context:
                    raise TooLongError(
                        f"text {number} has {len(ids)} tokens; the model '{self.name}' reads {self.context}"
                    )
                vectors.append(await service.run(mean_of, ids=ids))
                read += len(ids)
        return vectors, read

    def _ids(self, prompt: str) -> list[int]:
        with self._words:
            return encode_prompt(self.tokenizer, prompt)

    def _check_ids(self, ids: Sequence[int]) -> None:
        foreign = next((id for id in ids if not 0 <= id < self.tokenizer.vocab_size), None)
        if foreign is not None:
            raise GenerationError(
                f"there is no token {foreign}; those of '{self.name}' are 0 to {self.tokenizer.vocab_size - 1}"
            )

    # tokens

    def _within(self, sampling: Sampling, prompt: Sequence[int], look: bool = False) -> Sampling:
        """The settings, with no more new tokens than there is room for."""
        room = self.context - len(prompt)
        if room < 1:
            raise TooLongError(
                f"this model's maximum context length is {self.context} tokens; the prompt alone has {len(prompt)}: "
                "shorten it"
            )
        if look:
            sampling = replace(sampling, logprobs=max(sampling.logprobs or 0, LOOKED_AT))
        return sampling.within(room)

    def chosen(self, token: Token) -> Chosen:
        """A token as it is shown that has a log-probability."""
        assert token.logprob is not None
        top = tuple(Alternative(id, *self._spelled(id), logprob) for id, logprob in token.top)
        return Chosen(token.id, *self._spelled(token.id), token.logprob, top)

    def _spelled(self, id: int) -> tuple[str, bytes]:
        if id >= self.tokenizer.vocab_size:  # rows of the embedding that only fill it up
            return "", b""
        content = self.tokenizer.decode_bytes([id], at_start=False)
        return content.decode("utf-8", "replace"), content

    def _tell_first(self, began: float) -> None:
        if self._metrics is not None:
            self._metrics.first_token(self.name, time.perf_counter() - began)

    def _cost(self, prompt: Sequence[int], job: Job, count: int) -> Usage:
        usage = Usage(len(prompt), count, job.cached)
        if self._metrics is not None:
            self._metrics.tokens(self.name, prompt=len(prompt), completion=count, cached=job.cached)
        return usage


class _Reading:
    """Makes pieces of tokens as they come.

    Args:
        backend: spells tokens.
        turn: the text that they make.
        hidden: whether tokens of text that is never shown, as a call's, are left out.
    """

    def __init__(self, backend: LocalBackend, turn: Turn, *, hidden: bool = False):
        self.count = 0
        """How many tokens were read."""
        self._backend = backend
        self._turn = turn
        self._hidden = hidden
        self._unseen: list[Chosen] = []  # tokens whose text is not certain yet

    def pieces(self, tokens: Sequence[Token]) -> Iterator[Piece]:
        """What these tokens make certain, texts that follow each other as one; nothing of what comes after the end."""
        return _merged(self._singly(tokens))

    def _singly(self, tokens: Sequence[Token]) -> Iterator[Piece]:
        for token in tokens:
            self.count += 1
            if token.logprob is not None and not token.is_stop:
                self._unseen.append(self._backend.chosen(token))
            for piece in self._turn.push(token):
                if isinstance(piece, Text) or not self._hidden:
                    yield from self._unseen
                self._unseen.clear()
                yield piece
            if self._turn.over:
                return


def _merged(pieces: Iterable[Piece]) -> Iterator[Piece]:
    text = ""
    for piece in pieces:
        if isinstance(piece, Text):
            text += piece.text
            continue
        if text:
            yield Text(text)
            text = ""
        yield piece
    if text:
        yield Text(text)


class EncoderBackend:
    """Makes vectors of texts with an encoder in this process. Arguments as of `LocalBackend`."""

    def __init__(self, name: str, tokenizer: "Tokenizer", hold: "Callable[[], AbstractAsyncContextManager[Encoder]]"):
        self.name = name
        self.tokenizer = tokenizer
        self._hold = hold
        self._one_at_a_time = asyncio.Lock()

    async def embed(self, texts: "Sequence[str | Sequence[int]]") -> tuple[list[list[float]], int]:
        """See `Embedder.embed`."""
        async with self._hold() as encoder, self._one_at_a_time:
            return await asyncio.to_thread(self._embed, encoder, texts)

    def _embed(self, encoder: "Encoder", texts: "Sequence[str | Sequence[int]]") -> tuple[list[list[float]], int]:
        from penjing.inference.embedding import embed, fits

        read = 0
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise GenerationError(f"the encoder '{self.name}' takes texts, not token ids (input {number})")
            if not text:
                raise GenerationError(f"text {number} is empty")
            if not fits(encoder, self.tokenizer, text):
                raise TooLongError(
                    f"text {number} is longer than the encoder '{self.name}' reads; cut it into passages"
                )
            read += len(self.tokenizer.encode(text))
        return embed(encoder, self.tokenizer, [str(text) for text in texts]).tolist(), read


def mean_of(model: "LanguageModel", tokenizer: "Tokenizer", ids: Sequence[int]) -> list[float]:
    """The mean of what the model's head would read at each token, of length 1."""
    with torch.inference_mode(), evaluation_mode(model):
        tokens = torch.tensor([list(ids)], device=model.embedding.weight.device)
        mean = model.hidden(tokens)[0].float().mean(dim=0)  # (width,)
        return list((mean / mean.norm().clamp_min(torch.finfo(torch.float32).tiny)).tolist())
