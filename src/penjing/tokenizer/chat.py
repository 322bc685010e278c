r"""Chat templates: a conversation as the ids that a model reads, and which of them it has to learn.

A model knows one stream of tokens. A template, a Jinja program that comes with the tokenizer, writes a conversation as
text; in ChatML, the default here,

    <|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n

where <|im_start|> and <|im_end|> are special tokens: one id each, which no text gives. Two things must be known of each
character of it: whether the template wrote it, for a user who types "<|im_end|>" must get these ten characters and not
the token; and whether the assistant said it, for that, and the token that ends its turn, is what is learned.
`provenance` keeps the author of every character through the template's own logic. So here

    ids   special tokens where the template wrote them, between them the text encoded as one piece
    mask  <|im_start|> user \n What ... <|im_end|> \n <|im_start|> assistant \n 4    <|im_end|> \n
          False        False   ...                                              True True       False

and without special tokens in messages the ids are those of transformers' `apply_chat_template`.

Learned is what the model will have to write: all that follows the prompt, so also what the template itself puts before
an answer's first word but not into a prompt (`<think>`, or the head of a tool call).

Source: OpenAI's "Chat Markup Language", 2023, for the format; for templates, the chat template guide of transformers.
Departs from transformers: text never becomes a special token; the mask needs no `{% generation %}` in the template; a
template that knows nothing of tool calls gets them as text of the assistant, where there they are lost.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise, takewhile
from typing import Any, Literal, NotRequired, Required, TypedDict

import numpy as np
from jinja2 import Template, TemplateError
from numpy.typing import NDArray

from penjing.errors import GenerationError, TokenizerError
from penjing.tokenizer.messages import calls_as_text, role_of, traced_message
from penjing.tokenizer.provenance import SOMEONE, TEMPLATE, TracingEnvironment, author, authors_of, traced
from penjing.tokenizer.tokenizer import Tokenizer

CHATML = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- 'You can call these tools:\n<tools>\n' }}
    {%- for tool in tools %}
        {{- (tool | tojson) + '\n' }}
    {%- endfor %}
    {{- '</tools>\nCall one by writing <tool_call>{"name": ..., "arguments": {...}}</tool_call>.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set call = tool_call.function or tool_call %}
            {{- '<tool_call>{"name": ' + (call.name | tojson) + ', "arguments": ' }}
            {{- (call.arguments if call.arguments is string else call.arguments | tojson) + '}</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
""".strip()
"""`<|im_start|>{role}\n{content}<|im_end|>\n` for each message; tools are listed in the system message."""

_PROBE: list["Message"] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
_CALL: list["Message"] = [
    {"role": "user", "content": "x"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "probed", "arguments": {}}}],
    },
]
_NOT_TEMPLATE = re.compile(f"[^{TEMPLATE}]+")
_HIDDEN = "\uffff"
"""Stands for a character that is not the template's: a code point that is no character, so no token has it."""


class Message(TypedDict, total=False):
    """One message of a conversation."""

    role: Required[Literal["system", "user", "assistant", "tool"]]
    content: Required[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    """Calls in OpenAI's layout, for templates that write them in their own way; `arguments` are an object."""
    tool_call_id: NotRequired[str]
    """Which call a tool's message answers."""
    name: NotRequired[str]
    """The tool whose message it is."""
    weight: NotRequired[int]
    """0 for an assistant's message that is not to be learned."""


@dataclass(frozen=True)
class ChatTokens:
    """A conversation as ids."""

    ids: list[int]
    mask: list[bool]
    """True exactly for the assistant's tokens and those that end its turns: what is trained on."""


@dataclass(frozen=True)
class _Rendered:
    """A conversation as text."""

    text: str
    authors: str
    """Who wrote each character: `TEMPLATE`, `SOMEONE`, or the author of a message."""
    special: list[tuple[int, int, int]]
    """The special tokens that the template wrote: start, end, id."""


class ChatTemplate:
    """A chat template bound to its tokenizer.

    Args:
        tokenizer: gives ids, and the special tokens that the template may write.
        source: the template, in Jinja, as in Hugging Face's tokenizer_config.json.

    Raises:
        TokenizerError: `source` is not a Jinja template.
    """

    def __init__(self, tokenizer: Tokenizer, source: str = CHATML):
        self.tokenizer = tokenizer
        self.source = source
        self._encode_again = lru_cache(maxsize=256)(tokenizer.encode_stretches)  # what lies between turns, always alike
        try:
            self._template: Template = TracingEnvironment().from_string(source)
        except TemplateError as error:
            raise TokenizerError(f"the chat template is not valid Jinja: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:  # compiled templates do not pickle
        return ChatTemplate, (self.tokenizer, self.source)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        learned: Collection[int] | None = None,
        **variables: Any,
    ) -> ChatTokens:
        """The ids of a conversation, and which of them are the assistant's.

        Args:
            messages: the conversation. No text in it, whatever it spells, becomes a special token.
            add_generation_prompt: whether to end with the beginning of an assistant's turn, for the model to go on.
            tools: JSON schemas of tools that the model may call.
            learned: the numbers of the assistant's messages that the mask is of, from 0; None: all.
            variables: others that the template knows, such as `enable_thinking` or `documents`; text in them becomes no
                special token either.

        Raises:
            TokenizerError: a message is malformed, or the template refuses the conversation.
        """
        options = {"tools": tools, **variables}
        rendered = self._render(messages, add_generation_prompt=add_generation_prompt, **options)
        wanted = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        spans = self._learned(rendered, messages, wanted if learned is None else learned, options)
        ids: list[int] = []
        mask: list[bool] = []
        position = 0
        for start, end, number in [*rendered.special, (len(rendered.text), len(rendered.text), None)]:
            if start > position:
                own = rendered.authors.count(TEMPLATE, position, start) == start - position
                encode = self._encode_again if own else self.tokenizer.encode_stretches
                self._encode_plain(rendered.text[position:start], position, spans, encode, ids, mask)
            if number is not None:
                ids.append(number)
                mask.append(_overlaps(start, end, spans))
            position = end
        return ChatTokens(ids, mask)

    def text(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The conversation as text, to be looked at. Not to be encoded: it does not tell users' words from tokens."""
        return self._render(messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables).text

    def fit(
        self,
        messages: Sequence[Message],
        budget: int,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,
    ) -> list[Message]:
        """The conversation without as many of its oldest turns as it takes to be rendered in `budget` tokens.

        A turn is a user's message and all up to the next one. What stands before the first turn (the system message)
        stays, and the last turn does.

        Raises:
            GenerationError: what must stay takes more than `budget` tokens, the generation prompt included.
            TokenizerError: as of `render`.
        """
        turns = [place for place, message in enumerate(messages) if role_of(message, place) == "user"] or [0]
        for turn in turns:
            kept = [*messages[: turns[0]], *messages[turn:]]
            length = len(self.render(kept, add_generation_prompt=True, tools=tools, **variables).ids)
            if length <= budget:
                return kept
        raise GenerationError(f"the last turn takes {length} tokens with what stands before it; only {budget} fit")

    @property
    def end_of_turn_id(self) -> int | None:
        """The id that ends an assistant's turn; None when the template writes no special token there."""
        return self._end_of_turn[0] if self._end_of_turn else None

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The ids at which an assistant's turn is over: the one that ends it; where the template writes none there,
        those with which the turns of others begin (ChatGLM3's <|user|> and <|observation|>).
        """
        if self.end_of_turn_id is not None:
            return frozenset({self.end_of_turn_id})
        ids: set[int] = set()
        for role in ("user", "tool"):
            try:
                rendered = self._render([*_PROBE, {"role": role, "content": "x"}])
            except TokenizerError:  # not every template knows of tools
                continue
            said = rendered.authors.rfind(author(1))
            ids.update([number for start, _, number in rendered.special if start > said >= 0][:1])
        return frozenset(ids)

    @cached_property
    def writes_calls(self) -> bool:
        """Whether the template writes `tool_calls`; if not, they become text before it sees them."""
        try:
            return "probed" in self._render(_CALL).text
        except TokenizerError:
            return False

    @cached_property
    def _prompt(self) -> str:
        """What a prompt ends with; empty where that cannot be told from the rest."""
        try:
            without, prompt = (self._render(_PROBE[:1], add_generation_prompt=add).text for add in (False, True))
        except TokenizerError:
            return ""
        return prompt[len(without) :] if prompt.startswith(without) else ""

    @cached_property
    def _end_of_turn(self) -> list[int]:
        """The special tokens that follow what the assistant says without a gap, amid a conversation and at its end."""
        try:
            rendered = self._render([*_PROBE, *_PROBE])
        except TokenizerError:  # a template of another kind of conversation
            return []
        followers: list[list[int]] = []
        for number in (1, 3):
            said = rendered.authors.rfind(author(number))
            after = _adjacent([token for token in rendered.special if token[0] > said >= 0])
            followers.append([token[2] for token in after])
        return [here for here, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*followers, strict=False))]

    # text

    def _render(self, messages: Sequence[Message], **variables: Any) -> _Rendered:
        roles = {f"{role}_token": getattr(self.tokenizer, role) for role in ("bos", "eos", "pad")}
        known: dict[str, Any] = {role: token for role, token in roles.items() if token is not None}
        known |= {"add_generation_prompt": False, "documents": None}
        known |= {name: traced(value, SOMEONE) for name, value in variables.items()}
        known["messages"] = [traced_message(message, n) for n, message in enumerate(self._with_calls(messages))]
        known["tools"] = known.get("tools") or None
        try:
            result = self._template.render(known)
        except (TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise TokenizerError(f"the chat template cannot write these messages: {error}") from None
        text, authors = str.__str__(result), authors_of(result)
        return _Rendered(text, authors, list(self.tokenizer.find_special(self._template_text(text, authors))))

    def _template_text(self, text: str, authors: str) -> str:
        """The text with everything hidden that the template did not write."""
        visible = r"\S" if self.tokenizer.swallows else r"[\s\S]"  # white space may belong to a token beside it
        parts: list[str] = []
        position = 0
        for match in _NOT_TEMPLATE.finditer(authors):
            parts += [text[position : match.start()], re.sub(visible, _HIDDEN, text[match.start() : match.end()])]
            position = match.end()
        return "".join([*parts, text[position:]])

    def _with_calls(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages, with calls of tools as text where the template would not write them."""
        calling = [isinstance(message, Mapping) and bool(message.get("tool_calls")) for message in messages]
        if messages is _CALL or not any(calling) or self.writes_calls:
            return messages
        return [calls_as_text(message) if calls else message for message, calls in zip(messages, calling, strict=True)]

    # ids and mask

    def _encode_plain(
        self,
        text: str,
        offset: int,
        learned: list[tuple[int, int]],
        encode: Callable[..., list[tuple[int, int, NDArray[np.int32]]]],
        ids: list[int],
        mask: list[bool],
    ) -> None:
        """Appends the ids of `text`, which stands at `offset`, and whether each is learned."""
        model = self.tokenizer.model
        for start, end, numbers in encode(text, at_start=offset == 0):
            ids += numbers.tolist()
            start, end = start + offset, end + offset
            if len(numbers) == 1 or not _overlaps(start, end, learned):
                mask += [_overlaps(start, end, learned)] * len(numbers)
                continue
            stretch = text[start - offset : end - offset]
            spans = [  # where learned spans begin and stop, in bytes of what the tokens spell
                tuple(
                    len(model.normalize(stretch[: min(max(place, start), end) - start], at_start=start == 0).encode())
                    for place in span
                )
                for span in learned
                if _overlaps(start, end, [span])
            ]
            ends = accumulate(len(self.tokenizer.token_bytes(number)) for number in numbers)
            mask += [_overlaps(begin, stop, spans) for begin, stop in pairwise([0, *ends])]

    def _learned(
        self, rendered: _Rendered, messages: Sequence[Message], wanted: Collection[int], options: dict[str, Any]
    ) -> list[tuple[int, int]]:
        """The stretches of text that the assistant has to produce: what it says, and the end of its turn."""
        spans: list[tuple[int, int]] = []
        for number in sorted(wanted):
            said = _runs(rendered.authors, author(number))
            if not (said and self._follows_prompt(rendered, said[0][0])):
                said = self._from_prompt(said, rendered, messages[:number], options)
            spans += [(start, self._turn_end(rendered, end)) for start, end in said]
        return spans

    def _follows_prompt(self, rendered: _Rendered, place: int) -> bool:
        """Whether a prompt's last words stand right before a place, by the template's hand."""
        start = place - len(self._prompt)
        if not self._prompt or start < 0 or rendered.text[start:place] != self._prompt:
            return False
        return rendered.authors.count(TEMPLATE, start, place) == place - start

    def _from_prompt(
        self, said: list[tuple[int, int]], rendered: _Rendered, before: Sequence[Message], options: dict[str, Any]
    ) -> list[tuple[int, int]]:
        """`said`, or nothing, from the end of the prompt on: with what the template writes before the first word."""
        try:
            prompt = self._render(before, add_generation_prompt=True, **options).text
        except TokenizerError:  # templates may refuse a conversation that begins with the assistant
            return said
        first = said[0] if said else (len(prompt), len(prompt))
        between = rendered.authors[len(prompt) : first[0]]
        if not rendered.text.startswith(prompt) or len(prompt) > first[0] or between.strip(TEMPLATE):
            return said
        return [(len(prompt), first[1]), *said[1:]]

    def _turn_end(self, rendered: _Rendered, end: int) -> int:
        """Where the tokens end that end a turn whose last word ends at `end`; `end` itself if there are none."""
        after = [token for token in rendered.special if token[0] >= end]
        if not after or rendered.authors[end : after[0][0]].strip(TEMPLATE):
            return end
        if not self._end_of_turn and after[0][2] in self.stop_ids:  # the next turn's beginning is this one's end
            return after[0][1]
        for (_, stop, number), wanted in zip(_adjacent(after), self._end_of_turn, strict=False):
            if number != wanted:
                break
            end = stop
        return end


def _runs(authors: str, one: str) -> list[tuple[int, int]]:
    """The stretches that `one` wrote, with the template's words in between."""
    own, between = re.escape(one), f"[{re.escape(one)}{TEMPLATE}]"
    return [match.span() for match in re.finditer(f"{own}(?:{between}*{own})?", authors)]


def _adjacent(tokens: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The first of `tokens` and those that follow it without a gap."""
    count = min(1, len(tokens))
    while count < len(tokens) and tokens[count][0] == tokens[count - 1][1]:
        count += 1
    return tokens[:count]


def _overlaps(start: int, end: int, spans: Sequence[tuple[int, ...]]) -> bool:
    return any(start < stop and begin < end for begin, stop in spans)
