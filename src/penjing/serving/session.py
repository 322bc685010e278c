"""The page's login: a key given once becomes a cookie that scripts cannot read, so that links to files work too."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse

from penjing.serving.middleware import COOKIE, Gate

_DAYS = 30


def router(gate: Gate) -> APIRouter:
    """GET, POST and DELETE /api/session.

    Args:
        gate: whose keys are checked.
    """
    routes = APIRouter(prefix="/api/session", tags=["session"])

    @routes.get("")
    async def who(request: Request) -> dict[str, str | bool]:
        """Who is asking, and whether a key is needed at all."""
        return {"user": request.state.user, "keys": gate.keys is not None}

    @routes.post("", responses={401: {"description": "the key is not valid"}})
    async def log_in(key: Annotated[str, Body(embed=True, max_length=256)]) -> JSONResponse:
        """Takes a key, and keeps it in a cookie."""
        known = gate.keys.check(key) if gate.keys is not None else None
        if gate.keys is not None and known is None:
            error = {"message": "this API key is not valid", "type": "invalid_request_error", "param": "key"}
            return JSONResponse({"error": error | {"code": "invalid_api_key"}}, 401)
        answer = JSONResponse({"user": known.user if known else "local", "keys": gate.keys is not None})
        if known:
            answer.set_cookie(
                COOKIE, key, max_age=_DAYS * 86400, httponly=True, samesite="strict", secure=gate.secure, path="/"
            )
        return answer

    @routes.delete("")
    async def log_out() -> JSONResponse:
        """Forgets the key."""
        answer = JSONResponse({"user": "", "keys": gate.keys is not None})
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=gate.secure, path="/")
        return answer

    return routes
