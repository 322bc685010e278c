"""The request and the answer of /v1/chat/completions.

Source: OpenAI API reference, "Chat Completions"; the specification github.com/openai/openai-openapi, version 2.3.0.
Departs from it: what is not supported is an error that names it; `top_k`, `min_p` and `repetition_penalty` are known.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from penjing.serving.api.common import (
    MOST_TOOLS,
    Count,
    Function,
    Settings,
    Short,
    StreamOptions,
    Strict,
    TokenLogprob,
    ToolName,
    UsageBody,
    arguments_of,
    shape_of,
)
from penjing.serving.backend import JsonShape
from penjing.tokenizer.chat import Message


class TextPart(Strict):
    """Some text of a message."""

    type: Literal["text"]
    text: str


class RefusalPart(Strict):
    """A refusal in an earlier answer."""

    type: Literal["refusal"]
    refusal: str


TextContent = str | Annotated[list[TextPart], Field(min_length=1)]
SaidContent = str | Annotated[list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]], Field(min_length=1)]


def joined(content: str | Sequence[TextPart | RefusalPart] | None) -> str:
    """A content's text."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


class SystemMessage(Strict):
    """What the model is told beforehand."""

    role: Literal["system", "developer"]
    content: TextContent

    def message(self, place: str) -> Message:
        """As a chat template wants it."""
        return {"role": "system", "content": joined(self.content)}


class UserMessage(Strict):
    """What the user says."""

    role: Literal["user"]
    content: TextContent

    def message(self, place: str) -> Message:
        """As a chat template wants it."""
        return {"role": "user", "content": joined(self.content)}


class CalledFunction(Strict):
    """What a call called."""

    name: ToolName
    arguments: str
    """JSON."""


class CallPart(Strict):
    """A call in an earlier answer."""

    id: Short
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Strict):
    """An earlier answer."""

    role: Literal["assistant"]
    content: SaidContent | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[CallPart], Field(min_length=1, max_length=MOST_TOOLS)] | None = None

    def message(self, place: str) -> Message:
        """As a chat template wants it."""
        said: Message = {"role": "assistant", "content": joined(self.content) or self.refusal or ""}
        if self.tool_calls:
            said["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": arguments_of(
                            call.function.arguments, f"{place}.tool_calls[{number}].function.arguments"
                        ),
                    },
                }
                for number, call in enumerate(self.tool_calls)
            ]
        return said


class ToolMessage(Strict):
    """What a tool answered."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: Short

    def message(self, place: str) -> Message:
        """As a chat template wants it."""
        return {"role": "tool", "content": joined(self.content), "tool_call_id": self.tool_call_id}


AnyMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]

    def shape(self) -> JsonShape | None:
        """What the text must be."""
        return None


class JsonFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]

    def shape(self) -> JsonShape | None:
        """What the text must be."""
        return JsonShape()


class NamedSchema(Strict):
    """A JSON Schema with a name."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    """The answer satisfies the schema in any case."""


class SchemaFormat(Strict):
    """JSON that satisfies a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    def shape(self) -> JsonShape | None:
        """What the text must be."""
        return shape_of(self.json_schema.schema_, self.json_schema.name, "response_format.json_schema.schema")


ResponseFormat = Annotated[
    TextFormat | JsonFormat | SchemaFormat,
    Field(discriminator="type"),
]


class FunctionTool(Strict):
    """A tool."""

    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    """A function's name."""

    name: ToolName


class NamedChoice(Strict):
    """That this function must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Settings):
    """A conversation to answer."""

    model: Short
    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Count | None = None
    """How many tokens an answer has at most; never more than the context leaves."""
    max_tokens: Count | None = None
    """The same by its older name."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None


class CallFunctionBody(BaseModel):
    """What is to be called."""

    name: str
    arguments: str


class CallBody(BaseModel):
    """A call that the client is to make."""

    id: str
    type: Literal["function"]
    function: CallFunctionBody


class AnswerBody(BaseModel):
    """The model's message."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[CallBody] | None = None


class LogprobsBody(BaseModel):
    """The log-probabilities of an answer's tokens."""

    content: list[TokenLogprob] | None
    refusal: list[TokenLogprob] | None


class ChoiceBody(BaseModel):
    """One answer."""

    index: int
    message: AnswerBody
    logprobs: LogprobsBody | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class ChatCompletion(BaseModel):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChoiceBody]
    usage: UsageBody
