"""GET /health: 200 when the server can answer, 503 and why when it cannot (yet); for balancers and containers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

Check = Callable[[], str | None]
"""Says what is wrong, or None. It is fast: it is called on the event loop."""


@dataclass
class Health:
    """Whether a server can answer."""

    ready: bool = False
    """False while it starts (models are being read) and once it ends."""
    reason: str = "starting"
    """Why it is not ready."""
    checks: list[Check] = field(default_factory=list)

    def begin(self) -> None:
        """From now on it is ready, as far as the checks find."""
        self.ready, self.reason = True, ""

    def end(self, reason: str = "ending") -> None:
        """From now on it is not."""
        self.ready, self.reason = False, reason

    def fault(self) -> str | None:
        """What is wrong, or None."""
        if not self.ready:
            return self.reason
        for check in self.checks:
            try:
                fault = check()
            except Exception as error:  # a check that fails has found something
                fault = f"{type(error).__name__} in a check"
            if fault is not None:
                return fault
        return None


def router() -> APIRouter:
    """GET /health, of the application's `state.health`."""
    routes = APIRouter()

    @routes.get("/health", tags=["server"], responses={503: {"description": "it cannot answer (yet)"}})
    async def health(request: Request) -> JSONResponse:
        """Whether the server can answer: 200 with `{"status": "ok"}`, or 503 with the reason."""
        fault = request.app.state.health.fault()
        if fault is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable", "reason": fault}, 503, headers={"Retry-After": "5"})

    return routes
