"""What several requests have in common: strict schemas, the settings of sampling, tools, and shapes of answers."""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from penjing.inference.chat_model import Tool, Usage
from penjing.inference.sampling import Sampling
from penjing.serving.api.errors import bad
from penjing.serving.backend import Chosen, JsonShape

MOST_STOPS = 16
MOST_TOOLS = 128


class Strict(BaseModel):
    """A part of a request: no field that is not known, nothing turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


Short = Annotated[str, Field(min_length=1, max_length=256)]
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Count = Annotated[int, Field(ge=1)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


class Settings(Strict):
    """How tokens are chosen. What is left open is as the model prefers (its generation_config.json)."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 takes the most probable token always."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw from the most probable tokens that hold this probability."""
    top_k: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Draw from the k most probable tokens; 0 for all. Not in OpenAI's API."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Draw from tokens at least this many times as probable as the best. Not in OpenAI's API."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="Above 1, tokens that have come become less probable. Not in OpenAI's API."
    )
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Bias], Field(max_length=1024)] | None = None
    """What is added to tokens' logits, by id."""
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    """Strings that end the text."""
    seed: Seed | None = None
    """The same seed and question give the same answer."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """How many answers."""
    user: Annotated[str, Field(max_length=512)] | None = None
    """Whom the question comes from, for the audit log."""

    def over(self, defaults: Sampling, *, most: int | None, logprobs: int | None) -> Sampling:
        """The settings as the engine wants them.

        Args:
            defaults: for what is left open.
            most: new tokens at most.
            logprobs: how many alternatives are reported of each token; None: nothing.
        """
        names = ("temperature", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.top_k is not None:
            given["top_k"] = self.top_k or None
        if self.min_p is not None:
            given["min_p"] = self.min_p or None
        if self.top_p is not None:
            given |= {"top_p": self.top_p} if self.top_p else {"top_p": None, "top_k": 1}
        stop = [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else self.stop
        bias = {int(id): value for id, value in (self.logit_bias or {}).items()}
        return Sampling.of(defaults, **given, stop=tuple(stop), logit_bias=bias, max_new_tokens=most, logprobs=logprobs)


class StreamOptions(Strict):
    """What a stream tells beside its text."""

    include_usage: bool | None = None
    """A last chunk with what the answer cost."""
    include_obfuscation: Literal[False] | None = None


class Function(Strict):
    """A function that the model may call."""

    name: ToolName
    description: Annotated[str, Field(max_length=16384)] | None = None
    parameters: dict[str, Any] | None = None
    """A JSON Schema of its arguments."""
    strict: bool | None = None
    """Whether the arguments are sure to satisfy the schema."""

    def tool(self) -> Tool:
        """As a model is told of it."""
        return Tool(self.name, self.description or "", self.parameters or {})


def check_tools(functions: Sequence[Function], param: str) -> None:
    """Refuses two tools of a name."""
    names = [function.name for function in functions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise bad(f"two tools are called '{twice}'", param, "invalid_value")


def check_choice(choice: str | None, named: str | None, names: Sequence[str], param: str = "tool_choice") -> None:
    """Refuses a choice among tools that are not there."""
    if choice is not None and not names and choice != "none":
        raise bad(f"'{param}' is given without tools", param, "invalid_value")
    if named is not None and named not in names:
        raise bad(f"'{param}' names '{named}', which is none of the tools: {', '.join(names)}", param, "invalid_value")


def shape_of(schema: Mapping[str, Any] | None, name: str, param: str) -> JsonShape:
    """The shape that a schema asks for."""
    if schema is not None and not schema:
        raise bad(f"'{param}' is empty; give a JSON Schema", param, "invalid_value")
    return JsonShape(schema, name)


def arguments_of(text: str, param: str) -> dict[str, Any]:
    """The arguments of a call that a client sends back."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise bad(f"'{param}' is not a JSON object, written as a string", param, "invalid_value")
    return value


def check_length(texts: Sequence[str], limit: int, param: str) -> None:
    """Refuses more text than a request may have."""
    length = sum(map(len, texts))
    if length > limit:
        raise bad(f"'{param}' has {length:,} characters; at most {limit:,} are read", param, "string_above_max_length")


def check_samples(count: int, limit: int) -> None:
    """Refuses more answers than a request may ask for."""
    if count > limit:
        raise bad(f"'n' is {count}; at most {limit} answers are given", "n", "integer_above_max_value")


def new_id(prefix: str) -> str:
    """A name for an answer."""
    return f"{prefix}{secrets.token_hex(12)}"


def usage_of(usages: Sequence[Usage]) -> dict[str, Any]:
    """What some answers to one question cost: the prompt counts once."""
    prompt = usages[0].prompt_tokens if usages else 0
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached_tokens if usages else 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def logprob_of(chosen: Chosen) -> dict[str, Any]:
    """A token's log-probability as chat completions and responses show it."""
    return {
        "token": chosen.text,
        "logprob": finite(chosen.logprob),
        "bytes": list(chosen.bytes),
        "top_logprobs": [
            {"token": other.text, "logprob": finite(other.logprob), "bytes": list(other.bytes)} for other in chosen.top
        ],
    }


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold: OpenAI's API says -9999 for what is as good as impossible."""
    return max(logprob, -9999.0)


class CompletionDetails(BaseModel):
    """Of the answer's tokens."""

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class PromptDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int
    """Those that were known from an earlier request, and not read again."""
    audio_tokens: int


class UsageBody(BaseModel):
    """What a request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TopLogprob(BaseModel):
    """A token that might have come."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]
