"""/v1/models, and a model's tokens: /tokenize and /detokenize.

The first is OpenAI's; the others are as vLLM and SGLang have them, with the model's name in the request.
"""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from penjing.errors import PenjingError
from penjing.serving.api.chat_schema import AnyMessage, FunctionTool
from penjing.serving.api.common import MOST_TOOLS, Short, Strict, check_length
from penjing.serving.api.errors import RESPONSES, api_error, bad
from penjing.serving.backend import TextBackend, UnknownModelError
from penjing.serving.local import LocalBackend


class ModelBody(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models that are served, the default first."""

    object: Literal["list"]
    data: list[ModelBody]


class TokenizeRequest(Strict):
    """A text, or a conversation as the model would read it."""

    model: Short | None = None
    """The default model, if left out."""
    prompt: str | None = None
    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=4096)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
    add_special_tokens: bool = True
    """Whether a text's ids come after those that begin a text."""


class Tokens(BaseModel):
    """Token ids."""

    count: int
    max_model_len: int
    """How many tokens the model can read."""
    tokens: list[int]


class DetokenizeRequest(Strict):
    """Token ids."""

    model: Short | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1_000_000)]


class Detokenized(BaseModel):
    """Their text, special tokens written out."""

    prompt: str


def router() -> APIRouter:
    """GET /v1/models, GET /v1/models/{name}, POST /tokenize, POST /detokenize."""
    routes = APIRouter()

    @routes.get("/v1/models", tags=["openai"], responses=RESPONSES)
    async def models(request: Request) -> ModelList:
        """The models that are served."""
        backends = request.app.state.backends
        return ModelList(object="list", data=[_model(name, backends.created) for name in backends.names()])

    @routes.get("/v1/models/{name:path}", tags=["openai"], responses=RESPONSES)
    async def model(name: str, request: Request) -> ModelBody:
        """One of them."""
        backends = request.app.state.backends
        if name not in backends.names():
            raise UnknownModelError(f"there is no model '{name[:128]}' here; known: {', '.join(backends.names())}")
        return _model(name, backends.created)

    @routes.post("/tokenize", tags=["tokens"], responses=RESPONSES)
    async def tokenize(body: TokenizeRequest, request: Request) -> Tokens:
        """The tokens of a text or a conversation."""
        if (body.prompt is None) == (body.messages is None):
            raise bad("give either 'prompt' or 'messages'", "prompt")
        if body.tools is not None and body.messages is None:
            raise bad("'tools' are for 'messages' only", "tools")
        backend = await _text_backend(request, body.model)
        limit = request.app.state.limits.prompt
        if body.prompt is not None:
            check_length([body.prompt], limit, "prompt")
            ids = await asyncio.to_thread(backend.encode, body.prompt, begin=body.add_special_tokens)
        else:
            messages = [message.message(f"messages[{n}]") for n, message in enumerate(body.messages or ())]
            check_length([message["content"] for message in messages], limit, "messages")
            if not isinstance(backend, LocalBackend):
                raise bad(f"the model '{backend.name}' shows no prompts", "messages")
            tools = [tool.function.tool() for tool in body.tools or ()]
            try:
                ids = await asyncio.to_thread(backend.prompt_of, messages, tools)
            except PenjingError as error:
                raise api_error(error, "messages") from None
        return Tokens(count=len(ids), max_model_len=backend.context, tokens=ids)

    @routes.post("/detokenize", tags=["tokens"], responses=RESPONSES)
    async def detokenize(body: DetokenizeRequest, request: Request) -> Detokenized:
        """The text of tokens."""
        backend = await _text_backend(request, body.model)
        try:
            return Detokenized(prompt=await asyncio.to_thread(backend.decode, body.tokens))
        except PenjingError as error:
            raise api_error(error, "tokens") from None

    return routes


def _model(name: str, created: int) -> ModelBody:
    return ModelBody(id=name, object="model", created=created, owned_by="penjing")


async def _text_backend(request: Request, name: str | None) -> TextBackend:
    backend = await request.app.state.backends.get(name)
    if not isinstance(backend, TextBackend):
        raise bad(f"the model '{backend.name}' runs elsewhere; its tokens are not known here", "model")
    return backend
