"""A ChatModel in this process: the chat template, an engine, and tool calls.

The engine keeps what it has computed of earlier conversations. A next request that begins with the same tokens, as the
next turn of a conversation does, only processes what is new: the time to its first token does not grow with the
conversation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from penjing.errors import GenerationError, TokenizerError
from penjing.inference.chat_model import End, Piece, Tool, Usage, check_messages
from penjing.inference.engine.engine import Engine
from penjing.inference.engine.runner import tokens_that_fit
from penjing.inference.sampling import DEFAULT, Sampling
from penjing.inference.text import decoder_of, end_ids
from penjing.inference.tools import ROUNDS, run_call, why_over
from penjing.inference.turn import Turn

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import Message

_ANSWER_SHARE = 4
"""At least the context divided by this is kept free for an answer, unless max_new_tokens asks for less."""


_CONVERSATIONS = 8
"""How many conversations of full length are remembered, when there is the memory."""


class LocalChatModel:
    """Answers conversations with a language model in this process.

    Args:
        model: a language model trained to chat.
        tokenizer: its tokenizer, with a chat template.
        tools: functions that the model has learned to call, by name; it is not told of them (tell it with
            `stream(tools=)`).
        rounds: how many times in one answer the model may call tools before it must answer.
        name: what the model is called.
        engine: serves the model; None makes one that remembers some conversations of full length.

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
        engine: Engine | None = None,
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
        self.engine = engine or Engine(model, tokens=_room(model))

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
            turn = Turn(decoder_of(self.tokenizer, at_start=True), sampling.stop, id=f"call-{len(messages)}")
            room = sampling.within(self.model.config.context - len(prompt))
            (request,) = self.engine.add(prompt, room, stop_ids=end_ids(self.tokenizer))
            try:
                for token in self.engine.stream(request):
                    yield from turn.push(token)
                    if turn.over:
                        break
            finally:
                self.engine.cancel(request)
            messages.append({"role": "assistant", "content": turn.content})
            usage += Usage(len(prompt), len(request.generated), request.cached)
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


def _room(model: "LanguageModel") -> int:
    """Tokens for some conversations of full length, if memory allows; for one in any case."""
    context = model.config.context
    return max(context, min(tokens_that_fit(model), _CONVERSATIONS * context))
