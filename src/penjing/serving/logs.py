"""Logs as lines of JSON on the standard error: what happened, when, to which request, whose; never what was said.

    {"time": "2026-01-05T10:04:07.123Z", "level": "info", "event": "request", "id": "6f1c...", "user": "ada",
     "method": "POST", "path": "/v1/chat/completions", "status": 200, "seconds": 1.204, "first": 0.031, "bytes": 8123}

What users write and what models answer are left out, and so are addresses' query strings, in which a search's words
stand. Whoever serves may ask for prompts (`prompts=True`); they are then logged as the event "prompt", cut to a length.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

_LOGGER = logging.getLogger("penjing.serving")
_LONGEST = 1 << 14
LEVELS = ("debug", "info", "warning", "error")


class JsonLines(logging.Formatter):
    """A record as one line of JSON; `extra={"data": {...}}` adds fields to it.

    Of an exception its type and where it was raised are logged. Its text may quote what a user wrote.

    Args:
        prompts: whether that may be logged too.
    """

    def __init__(self, *, prompts: bool = False):
        super().__init__()
        self.prompts = prompts

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "data", {})
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = f"{type(error).__name__}: {error}" if self.prompts else type(error).__name__
            frames = traceback.extract_tb(error.__traceback__)
            line["trace"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line, ensure_ascii=False, default=str)


def setup(level: str = "info", *, prompts: bool = False, stream: TextIO | None = None) -> None:
    """Sends the server's records, and those of uvicorn, to a stream as lines of JSON.

    Args:
        level: "debug", "info", "warning" or "error".
        prompts: whether errors' texts, which may quote users, are logged.
        stream: where to; the standard error by default.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(prompts=prompts))
    for name in ("penjing.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())


def arrangement() -> tuple[str, bool] | None:
    """The level and whether prompts are logged, as `setup` had it, for another process of this server; None without."""
    for handler in _LOGGER.handlers:
        if isinstance(handler.formatter, JsonLines):
            return logging.getLevelName(_LOGGER.level).lower(), handler.formatter.prompts
    return None


def event(name: str, *, level: int = logging.INFO, error: BaseException | None = None, **data: Any) -> None:
    """Logs an event with its fields.

    Args:
        name: a word or two, always the same for the same kind of event.
        level: how grave it is.
        error: an exception, whose trace goes with it.
        data: the fields.
    """
    _LOGGER.log(level, name, extra={"data": data}, exc_info=error)


class RequestLog:
    """Logs requests.

    Args:
        prompts: whether what users send may be logged too.
    """

    def __init__(self, *, prompts: bool = False):
        self.prompts = prompts

    def request(self, **data: Any) -> None:
        """Logs a request that has ended."""
        event("request", level=logging.INFO if data.get("status", 0) < 500 else logging.WARNING, **data)

    def prompt(self, id: str, body: bytes) -> None:
        """Logs what was sent, if that is wanted."""
        if self.prompts:
            event("prompt", id=id, body=body[:_LONGEST].decode("utf-8", "replace"), cut=len(body) > _LONGEST)
