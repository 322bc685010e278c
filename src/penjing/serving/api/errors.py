"""Errors as OpenAI's API gives them: a status, and `{"error": {"message", "type", "param", "code"}}`.

    400  what was asked cannot be done: a value out of range, a field that is not supported, a text that is too long
    404  no such model, no such path
    405  another method
    503  the model cannot answer now

A field that the request's schema lacks is an error that names it: `unsupported_parameter` where OpenAI's API has it,
`unknown_parameter` where it does not. Nothing that a client asks for is left out in silence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from penjing.errors import GenerationError, PenjingError
from penjing.serving.backend import BackendError, ShapeError, TooLongError, UnknownModelError

_INVALID, _SERVER = "invalid_request_error", "server_error"
_LONGEST = 400
"""Characters of what a message quotes."""

UNSUPPORTED: dict[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset(
        {
            *("audio", "function_call", "functions", "metadata", "moderation", "prediction", "prompt_cache_key"),
            *("prompt_cache_retention", "reasoning_effort", "safety_identifier", "verbosity", "web_search_options"),
        }
    ),
    "/v1/completions": frozenset({"best_of", "suffix"}),
    "/v1/responses": frozenset(
        {
            *("background", "context_management", "conversation", "include", "max_tool_calls", "moderation"),
            *("previous_response_id", "prompt", "prompt_cache_key", "prompt_cache_retention", "reasoning"),
            *("safety_identifier", "stream_options"),
        }
    ),
    "/v1/embeddings": frozenset({"dimensions"}),
}
"""Fields of OpenAI's requests that are not supported here."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """An error."""

    error: ErrorDetail


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "What was asked cannot be done; the error says why."},
    "5XX": {"model": ErrorResponse, "description": "The server cannot answer now."},
}
"""What every route may answer instead, for FastAPI's `responses`."""


def answered_by(model: type[BaseModel], *, streams: bool = True) -> dict[int | str, dict[str, Any]]:
    """What a route may answer, for FastAPI's `responses`.

    Args:
        model: the whole answer.
        streams: whether it may come in events, too.
    """
    content = {"text/event-stream": {"schema": {"type": "string"}}} if streams else {}
    how = "The answer, whole or in server-sent events." if streams else "The answer."
    return {200: {"model": model, "description": how, "content": content}, **RESPONSES}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP's.
        message: for people.
        param: the field that is at fault.
        code: for programs.
        type: OpenAI's kind of error.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, type: str = _INVALID
    ):
        super().__init__(message)
        self.status = status
        self.body = error_body(message, type=type, param=param, code=code)

    def response(self) -> JSONResponse:
        """The answer."""
        headers = {"Retry-After": "5"} if self.status == 503 else None
        return JSONResponse(self.body, self.status, headers=headers)


class GoneError(Exception):
    """The client has closed the connection: nobody waits for an answer."""


def error_body(
    message: str, *, type: str = _INVALID, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error's JSON."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be done as asked."""
    return ApiError(400, message, param=param, code=code)


def api_error(error: PenjingError, param: str | None = None) -> ApiError:
    """What a client is told of an error of ours."""
    if isinstance(error, UnknownModelError):
        return ApiError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, TooLongError):
        return bad(str(error), param, "context_length_exceeded")
    if isinstance(error, ShapeError):
        by_tool = str(error).startswith("the tool")
        return bad(str(error), "tools" if by_tool else "text.format" if param == "input" else "response_format")
    if isinstance(error, GenerationError):
        return bad(str(error), "logit_bias" if str(error).startswith("logit_bias") else param)
    if isinstance(error, BackendError):
        return ApiError(503, str(error), code="model_unavailable", type=_SERVER)
    return bad(str(error), param)


def install(app: FastAPI) -> None:
    """Has an application answer its errors in this shape."""

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(PenjingError)
    async def user(request: Request, error: PenjingError) -> JSONResponse:
        return api_error(error).response()

    @app.exception_handler(GoneError)
    async def gone(request: Request, error: GoneError) -> JSONResponse:
        return JSONResponse(error_body("the client has closed the connection"), 499)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return of_validation(request.url.path, error.errors(), error.body).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message, code = str(error.detail), None
        if error.status_code == 404:
            message, code = f"there is nothing at {request.method} {request.url.path[:200]}", "not_found"
        elif error.status_code == 405:
            message = f"{request.url.path[:200]} has no {request.method}"
        return JSONResponse(error_body(message, code=code), error.status_code, headers=error.headers)


def of_validation(path: str, faults: Sequence[Mapping[str, Any]], body: object) -> ApiError:
    """The error of a body that its schema does not allow; of several faults the one that lies deepest.

    Where a value may be of several kinds, each kind has its own complaint; the deepest is of the one that was meant.
    """

    def weight(fault: Mapping[str, Any]) -> tuple[int, bool, bool]:
        place = _place(fault, body)
        return len(place), place[-1:] in (["type"], ["role"]), fault["type"] != "extra_forbidden"

    fault = max(faults, key=weight)
    place = _place(fault, body)
    param = _written(place) or None
    if fault["type"] == "json_invalid":
        return bad(f"the body is not JSON: {fault.get('ctx', {}).get('error', '')}", code="invalid_json")
    if fault["type"] == "extra_forbidden":
        if len(place) == 1 and place[0] in UNSUPPORTED.get(path, ()):
            return bad(f"'{param}' is not supported by this server", param, "unsupported_parameter")
        return bad(f"there is no parameter '{str(param)[:_LONGEST]}'", param, "unknown_parameter")
    if fault["type"] == "missing":
        return bad(f"'{param}' is missing" if param else "the body is missing", param, "missing_required_parameter")
    message = str(fault["msg"])[:_LONGEST]
    if fault["type"] == "union_tag_invalid":
        expected = str(fault.get("ctx", {}).get("expected_tags", ""))
        message = f"it is of an unsupported kind; supported: {expected}"
    return bad(f"'{param}': {message}" if param else f"the body: {message}", param, "invalid_value")


def _place(fault: Mapping[str, Any], body: object) -> list[str | int]:
    """Where a fault is, as a client sees it: without the names of the schema's alternatives."""
    place: list[str | int] = []
    inside = body
    steps = [step for step in fault["loc"] if step != "body"]
    for number, step in enumerate(steps):
        in_object = isinstance(inside, Mapping) and step in inside
        in_list = isinstance(inside, list) and isinstance(step, int) and step < len(inside)
        if in_object or in_list:
            inside = inside[step]  # type: ignore[index]
        elif not (fault["type"] == "missing" and number == len(steps) - 1):
            continue
        place.append(step)
    return place


def _written(place: Sequence[str | int]) -> str:
    """A place as OpenAI writes it: `messages[0].content`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
