"""/v1/embeddings and /v1/moderations: texts to vectors, and texts to judgements.

An encoder that was made for it (all-MiniLM-L6-v2, say) gives vectors that are near where texts mean nearly the same. Of
a model that writes text, a vector is the mean of what its head would read, which says less.

Source: OpenAI API reference, "Embeddings", "Moderations".
Departs from it: `dimensions` is not supported. Categories that the classifier does not judge are there, for clients
count on them, with the score 0 and no kind of input in `category_applied_input_types`.
"""

import asyncio
import base64
import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from penjing.errors import PenjingError
from penjing.serving.api.common import Short, Strict, check_length, new_id
from penjing.serving.api.completions import Ids, ManyIds
from penjing.serving.api.errors import RESPONSES, ApiError, api_error, bad
from penjing.serving.api.streams import while_connected

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=2048)]


class EmbeddingRequest(Strict):
    """Texts to make vectors of."""

    model: Short
    input: Text | Texts | Ids | ManyIds
    """A text, or several, or their token ids."""
    encoding_format: Literal["float", "base64"] | None = None
    """Numbers, or little-endian float32 in base64."""
    user: Annotated[str, Field(max_length=512)] | None = None


class EmbeddingBody(BaseModel):
    """A text's vector, of length 1."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """What was read, in tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[EmbeddingBody]
    model: str
    usage: EmbeddingUsage


class ModerationPart(Strict):
    """A text in a list of parts."""

    type: Literal["text"]
    text: str


class ModerationRequest(Strict):
    """Texts to judge."""

    input: str | Annotated[list[str], Field(min_length=1)] | Annotated[list[ModerationPart], Field(min_length=1)]
    model: Short | None = None
    """The only one there is, or left out."""


class ModerationResult(BaseModel):
    """A judgement."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class ModerationResponse(BaseModel):
    """The judgements, in the order of the texts."""

    id: str
    model: str
    results: list[ModerationResult]


MODERATION_MODEL = "moderation"

OPENAIS = (
    *("hate", "hate/threatening", "harassment", "harassment/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic"),
)
"""The categories of OpenAI's API."""


def router() -> APIRouter:
    """POST /v1/embeddings, POST /v1/moderations."""
    routes = APIRouter()

    @routes.post("/v1/embeddings", tags=["openai"], responses=RESPONSES)
    async def embeddings(body: EmbeddingRequest, request: Request) -> EmbeddingList:
        """Makes vectors of texts."""
        texts = _inputs(body.input)
        _check(texts, request, "input")
        backend = await while_connected(request, request.app.state.backends.embedder(body.model))
        try:
            vectors, read = await while_connected(request, backend.embed(texts))
        except PenjingError as error:
            raise api_error(error, "input") from None
        shown = [_base64(vector) if body.encoding_format == "base64" else vector for vector in vectors]
        return EmbeddingList(
            object="list",
            data=[EmbeddingBody(object="embedding", index=n, embedding=vector) for n, vector in enumerate(shown)],
            model=body.model,
            usage=EmbeddingUsage(prompt_tokens=read, total_tokens=read),
        )

    @routes.post("/v1/moderations", tags=["openai"], responses=RESPONSES)
    async def moderations(body: ModerationRequest, request: Request) -> ModerationResponse:
        """Judges texts by the categories of the classifier that serves."""
        moderator = request.app.state.moderator
        if moderator is None:
            raise ApiError(
                404,
                "this server has no moderation model; train one (penjing safety train), serve with --moderator FOLDER",
                code="model_not_found",
            )
        if body.model is not None and body.model not in (MODERATION_MODEL, "omni-moderation-latest"):
            raise ApiError(
                404, f"there is no moderation model '{body.model}'; it is called '{MODERATION_MODEL}'",
                param="model", code="model_not_found",
            )  # fmt: skip
        parts = [body.input] if isinstance(body.input, str) else body.input
        texts = [part if isinstance(part, str) else part.text for part in parts]
        _check(texts, request, "input")
        judged = await asyncio.to_thread(moderator.judge, texts)
        return ModerationResponse(
            id=new_id("modr-"),
            model=MODERATION_MODEL,
            results=[
                ModerationResult(
                    flagged=each.flagged,
                    categories={name: name in each.categories for name in _names(each.scores)},
                    category_scores={name: each.scores.get(name, 0.0) for name in _names(each.scores)},
                    category_applied_input_types={
                        name: ["text"] if name in each.scores else [] for name in _names(each.scores)
                    },
                )
                for each in judged
            ],
        )

    return routes


def _names(judged: Iterable[str]) -> list[str]:
    """OpenAI's categories, which clients count on, and any other that the classifier judges."""
    return [*OPENAIS, *(name for name in judged if name not in OPENAIS)]


def _inputs(given: Any) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    return [list(given)] if isinstance(given[0], int) else list(given)


def _check(texts: Sequence[str | list[int]], request: Request, param: str) -> None:
    limits = request.app.state.limits
    if len(texts) > limits.inputs:
        raise bad(f"'{param}' has {len(texts)} texts; at most {limits.inputs} are taken", param)
    check_length([text for text in texts if isinstance(text, str)], limits.prompt, param)


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
