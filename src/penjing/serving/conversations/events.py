"""Server-sent events: how a reply reaches the page piece by piece (https://html.spec.whatwg.org, section 9.2)."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import StreamingResponse


@dataclass(frozen=True)
class Event:
    """Something for a watcher; without a name it is only a sign of life."""

    name: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        r"""As it is sent.

        >>> Event("text", {"text": "Hi"}).encode()
        b'event: text\ndata: {"text":"Hi"}\n\n'
        """
        if not self.name:
            return b": alive\n\n"
        data = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))  # has no line ends
        return f"event: {self.name}\ndata: {data}\n\n".encode()


def stream(events: AsyncIterator[Event]) -> StreamingResponse:
    """A response that sends events as they come; nobody on the way may keep or collect them."""

    async def sent() -> AsyncIterator[bytes]:
        async for event in events:
            yield event.encode()

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(sent(), media_type="text/event-stream", headers=headers)
