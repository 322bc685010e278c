"""The request and the answer of /v1/responses, as far as they need no memory of earlier ones.

Source: OpenAI API reference, "Responses"; the specification github.com/openai/openai-openapi, version 2.3.0.
Departs from it: nothing is stored, so what refers to something stored (`previous_response_id`, `conversation`,
`prompt`, `"store": true`, `background`) is an error that names it; tools are functions; no `reasoning`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from penjing.serving.api.chat_schema import JsonFormat, TextFormat
from penjing.serving.api.common import (
    MOST_TOOLS,
    Count,
    Function,
    Short,
    Strict,
    TokenLogprob,
    ToolName,
    arguments_of,
    shape_of,
)
from penjing.serving.backend import JsonShape
from penjing.tokenizer.chat import Message

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Strict):
    """Some text of a message."""

    type: Literal["input_text"]
    text: str


class OutputTextPart(Strict):
    """Some text of an earlier answer, as it was answered."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None
    logprobs: list[dict[str, Any]] | None = None


class RefusalPart(Strict):
    """A refusal in an earlier answer."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[InputText | OutputTextPart | RefusalPart, Field(discriminator="type")]


class MessageItem(Strict):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[Part], Field(min_length=1)]
    id: Short | None = None
    status: Status | None = None

    def message(self, place: str) -> Message:
        """As a chat template wants it."""
        text = self.content if isinstance(self.content, str) else "".join(map(_text_of, self.content))
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": text}


class CallItem(Strict):
    """A call in an earlier answer."""

    type: Literal["function_call"]
    call_id: Short
    name: ToolName
    arguments: str
    id: Short | None = None
    status: Status | None = None

    def message(self, place: str) -> Message:
        """As a chat template wants it."""
        function = {"name": self.name, "arguments": arguments_of(self.arguments, f"{place}.arguments")}
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": self.call_id, "type": "function", "function": function}],
        }


class CallOutputItem(Strict):
    """What a tool answered."""

    type: Literal["function_call_output"]
    call_id: Short
    output: str | Annotated[list[InputText], Field(min_length=1)]
    id: Short | None = None
    status: Status | None = None

    def message(self, place: str) -> Message:
        """As a chat template wants it."""
        text = self.output if isinstance(self.output, str) else "".join(map(_text_of, self.output))
        return {"role": "tool", "content": text, "tool_call_id": self.call_id}


def _text_of(part: InputText | OutputTextPart | RefusalPart) -> str:
    return part.refusal if isinstance(part, RefusalPart) else part.text


InputItem = MessageItem | CallItem | CallOutputItem


class SchemaTextFormat(Strict):
    """JSON that satisfies a schema."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    def shape(self) -> JsonShape | None:
        """What the text must be."""
        return shape_of(self.schema_, self.name, "text.format.schema")


class TextSettings(Strict):
    """What the text must be."""

    format: Annotated[TextFormat | JsonFormat | SchemaTextFormat, Field(discriminator="type")] | None = None


class ResponseTool(Function):
    """A function that the model may call."""

    type: Literal["function"]


class ResponseChoice(Strict):
    """That this function must be called."""

    type: Literal["function"]
    name: ToolName


Label = Annotated[str, Field(max_length=64)]
Metadata = Annotated[dict[Label, Annotated[str, Field(max_length=512)]], Field(max_length=16)]


class ResponseRequest(Strict):
    """A conversation to answer."""

    model: Short
    input: Annotated[str, Field(min_length=1)] | Annotated[list[InputItem], Field(min_length=1, max_length=4096)]
    """A user's message, or messages, calls and their results."""
    instructions: str | None = None
    """What the model is told before all that."""
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """The log-probability of each token, and of this many of the most probable ones."""
    text: TextSettings | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    """Comes back with the answer."""
    stream: bool | None = None
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None


def merged(messages: Sequence[Message]) -> list[Message]:
    """The messages, those of one turn of the assistant (text, calls) as one."""
    found: list[Message] = []
    for message in messages:
        last = found[-1] if found else None
        if last is not None and message["role"] == last["role"] == "assistant" and "tool_calls" in message:
            calls = [*last.get("tool_calls", []), *message["tool_calls"]]
            found[-1] = {**last, "content": last["content"] + message["content"], "tool_calls": calls}
        else:
            found.append(message)
    return found


class OutputText(BaseModel):
    """Text of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[TokenLogprob]


class OutputMessage(BaseModel):
    """The model's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Status
    content: list[OutputText]


class OutputCall(BaseModel):
    """A call that the client is to make."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: Status


class Details(BaseModel):
    """Why an answer is not whole."""

    reason: Literal["max_output_tokens", "content_filter"]


class InputDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(BaseModel):
    """Of the answer's tokens."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """What a request cost, in tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseFault(BaseModel):
    """Why there is no answer."""

    code: str
    message: str


class ResponseBody(BaseModel):
    """An answer."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[OutputMessage | OutputCall]
    error: ResponseFault | None
    incomplete_details: Details | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    store: Literal[False]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None
