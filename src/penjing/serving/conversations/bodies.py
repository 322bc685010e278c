"""What requests to the page's API hold, and what answers do, for checking the ones and documenting the others."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SamplingBody(_Strict):
    """How tokens are chosen; what is left out or null is as usual."""

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None


class SettingsBody(_Strict):
    """How the model is to answer in a conversation; what is left out stays as it is."""

    model: str | None = None
    system: str | None = None
    sampling: SamplingBody | None = None
    context: Literal["trim", "summary"] | None = None


class NewConversation(SettingsBody):
    """A conversation to begin."""

    title: str = ""
    preset: str | None = None
    """The name of a preset: its system prompt and sampling, where none are given here."""


class ConversationChange(_Strict):
    """What is to be changed of a conversation."""

    title: str | None = None
    leaf: str | None = None
    """A message: the newest branch through it is shown."""
    settings: SettingsBody | None = None


class NewMessage(_Strict):
    """Something that the user says."""

    content: str
    parent: str | None = None
    """What it follows: left out, the leaf; null, nothing."""


class MessageChange(_Strict):
    """What the user thinks of a message; what is left out stays as it is."""

    feedback: Literal[1, -1] | None = None
    note: str = ""
    pinned: bool = False


class ForkBody(_Strict):
    """Where the new conversation ends."""

    message: str


class PresetBody(_Strict):
    """A system prompt and settings under a name."""

    name: str
    system: str = ""
    sampling: SamplingBody = SamplingBody()


class PresetsBody(_Strict):
    """All presets of a user."""

    presets: list[PresetBody]


class Fault(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class FaultBody(BaseModel):
    """An error, in the shape of OpenAI's API."""

    error: Fault


class MessageRecord(BaseModel):
    """A message."""

    id: str
    parent: str | None
    role: Literal["user", "assistant"]
    content: str
    html: str
    status: Literal["done", "running", "interrupted", "blocked"]
    model: str | None
    usage: dict[str, JsonValue] | None
    feedback: Literal[1, -1] | None
    note: str
    pinned: bool
    created: float
    tool_calls: list[dict[str, JsonValue]]
    notice: dict[str, JsonValue] | None
    error: str | None


class SettingsRecord(BaseModel):
    """How the model answers."""

    model: str | None
    system: str
    sampling: dict[str, JsonValue]
    context: Literal["trim", "summary"]


class ConversationRecord(BaseModel):
    """A conversation with all branches."""

    id: str
    title: str
    settings: SettingsRecord
    leaf: str | None
    created: float
    updated: float
    messages: list[MessageRecord]


class ListedRecord(BaseModel):
    """A conversation in a list."""

    id: str
    title: str
    updated: float
    preview: str
    model: str | None


class ListRecord(BaseModel):
    """Some conversations."""

    conversations: list[ListedRecord]
    more: bool


class ImportedRecord(BaseModel):
    """What was imported."""

    id: str
    title: str


class ImportRecord(BaseModel):
    """All that was imported."""

    conversations: list[ImportedRecord]


class DeletedRecord(BaseModel):
    """What was deleted."""

    deleted: str


class RemovedRecord(BaseModel):
    """The messages that were deleted, and which one is shown last now."""

    removed: list[str]
    leaf: str | None


class BudgetRecord(BaseModel):
    """What a branch takes of the model's context."""

    tokens: int
    context: int
    room: int
    turns: int
    dropped: int
    pinned: int
    summarised: bool


def given(body: BaseModel) -> dict[str, Any]:
    """What a request gives, without what it leaves out."""
    return body.model_dump(exclude_unset=True)
