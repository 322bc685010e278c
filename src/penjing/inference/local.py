"""A ChatModel in this process: the chat template, the decoding loop, tool calls, and a memory of the last conversation.

The cache of the newest answer is kept. A next request that begins with the same tokens, as the next turn of a
conversation does, only processes what is new: the time to its first token does not grow with the conversation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from penjing.errors import GenerationError, TokenizerError
from penjing.inference.chat_model import End, Piece, Text, Tool, Usage, check_messages
from penjing.inference.decoding import Decoding, Reason
from penjing.inference.sampling import DEFAULT, Sampling
from penjing.inference.text import TextStream, decoder_of, end_ids
from penjing.inference.tools import ROUNDS, CallSplitter, ToolCall, read_call, run_call, why_over

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.nn.state import State
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import Message

_ANSWER_SHARE = 4
"""At least the context divided by this is kept free for an answer, unless max_new_tokens asks for less."""


class LocalChatModel:
    """Answers conversations with a language model in this process.

    Args:
        model: a language model trained to chat.
        tokenizer: its tokenizer, with a chat template.
        tools: functions that the model has learned to call, by name; it is not told of them (tell it with
            `stream(tools=)`).
        rounds: how many times in one answer the model may call tools before it must answer.
        name: what the model is called.

    Raises:
        GenerationError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        model: "LanguageModel",
        tokenizer: "Tokenizer",
        tools: Mapping[str, Callable[..., object]] | None = None,
        *,
        rounds: int = ROUNDS,
        name: str = "local",
    ):
        if tokenizer.chat is None:
            raise GenerationError(
                "this model has no chat template: it continues text (`penjing generate`), it was not trained to chat"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.chat = tokenizer.chat
        self.tools = dict(tools or {})
        self.rounds = rounds
        self.name = name
        self._memory: tuple[list[int], State] | None = None  # the tokens that a cache holds, and the cache

    def stream(
        self,
        messages: "Sequence[Message]",
        sampling: Sampling = DEFAULT,
        tools: Sequence[Tool] | None = None,
    ) -> Iterator[Piece]:
        """See `ChatModel.stream`. The oldest turns are left out where a conversation outgrows the context."""
        check_messages(messages)
        return self._answer(list(messages), sampling, list(tools or ()), self._encode(messages, sampling, tools))

    def _answer(
        self, messages: "list[Message]", sampling: Sampling, tools: list[Tool], prompt: list[int]
    ) -> Iterator[Piece]:
        run = self.tools | {tool.name: tool.run for tool in tools if tool.run is not None}
        theirs = {tool.name for tool in tools if tool.run is None}
        given, usage, rounds_left = len(messages), Usage(), self.rounds
        while True:
            turn = _Turn(self, prompt, sampling, f"call-{len(messages)}")
            yield from turn.pieces()
            messages.append({"role": "assistant", "content": turn.content})
            usage += turn.usage
            reason = why_over(turn.calls, turn.reason, rounds_left, theirs)
            if reason is not None:
                break
            for call in turn.calls:
                result = run_call(call, run)
                yield result
                messages.append({"role": "tool", "content": result.content})
            rounds_left -= 1
            prompt = self._encode(messages, sampling, tools)
        yield End(reason, usage, tuple(messages[given:]))

    def _encode(self, messages: "Sequence[Message]", sampling: Sampling, tools: Sequence[Tool] | None) -> list[int]:
        """The prompt of a conversation, without its oldest turns where it would leave no room for an answer."""
        described = [tool.to_dict() for tool in tools] if tools else None
        context = self.model.config.context
        room = min(sampling.max_new_tokens or context, context // _ANSWER_SHARE)
        try:
            kept = self.chat.fit(messages, context - room, tools=described)
            return self.chat.render(kept, add_generation_prompt=True, tools=described).ids
        except TokenizerError as error:
            raise GenerationError(str(error)) from None

    def _take_state(self, prompt: list[int]) -> "State | None":
        """The remembered cache cut to what it shares with `prompt`; None when it shares nothing.

        It is taken away, so that two answers made at the same time never write to the same one.
        """
        memory, self._memory = self._memory, None
        if memory is None:
            return None
        ids, state = memory
        same = 0
        # the last token of the prompt is always run, for the logits after it
        for ours, theirs in zip(ids, prompt[:-1], strict=False):
            if ours != theirs:
                break
            same += 1
        if not same:
            return None
        state.truncate(same)
        return state

    def _keep_state(self, ids: list[int], state: "State | None") -> None:
        """Remembers a cache that holds the first `state.length` of `ids`."""
        self._memory = None if state is None else (ids[: state.length], state)


class _Turn:
    """One turn of the assistant: its text, the calls in it, why it ended, what it cost."""

    def __init__(self, owner: LocalChatModel, prompt: list[int], sampling: Sampling, id: str):
        self.owner = owner
        self.prompt = prompt
        self.sampling = sampling.within(owner.model.config.context - len(prompt))
        self.id = id
        self.content = ""
        self.calls: list[ToolCall] = []
        self.reason: Reason = "length"
        self.usage = Usage()

    def pieces(self) -> Iterator[Text | ToolCall]:
        """Generates the turn."""
        owner, splitter = self.owner, CallSplitter()
        state = owner._take_state(self.prompt)
        cached = 0 if state is None else state.length
        text = TextStream(decoder_of(owner.tokenizer, at_start=True), self.sampling.stop)
        stop_ids = end_ids(owner.tokenizer)
        decoding = Decoding(owner.model, [self.prompt], self.sampling, stop_ids=stop_ids, state=state)
        ids: list[int] = []
        try:
            while tokens := decoding.step():
                ids.append(tokens[0].id)
                if tokens[0].reason is not None:
                    self.reason = tokens[0].reason
                piece = text.push(tokens[0])
                self.content += piece
                yield from self._pieces(splitter.push(piece))
                if text.stopped_by is not None:
                    self.reason = "stop"
                    decoding.stop(0)
            yield from self._pieces(splitter.flush())
        finally:
            self.usage = Usage(len(self.prompt), len(ids), cached)
            owner._keep_state(self.prompt + ids, decoding.state)

    def _pieces(self, parts: Iterator[tuple[str, str]]) -> Iterator[Text | ToolCall]:
        for kind, content in parts:
            if kind == "text":
                yield Text(content)
            else:
                call = read_call(content, f"{self.id}-{len(self.calls)}")
                self.calls.append(call)
                yield call
