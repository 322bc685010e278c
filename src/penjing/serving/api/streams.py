"""What a request's pieces go through on their way out, and what happens when the client hangs up: everything stops.

    backend's pieces ----+
    backend's pieces ----+-- interleaved ---- EventStream -> client          `n` answers to one question
    backend's pieces ----+

A server framework tells nobody that a client has gone while an answer is being made in one piece. So every wait here
is for two things: the next piece, or the end of the connection (`while_connected`).
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from penjing.errors import PenjingError
from penjing.serving.api.errors import ApiError, GoneError, api_error
from penjing.serving.logs import event

Item = TypeVar("Item")


async def while_connected(request: Request, work: Awaitable[Item]) -> Item:
    """Waits for some work, and gives it up when the client closes the connection.

    Raises:
        GoneError: the client has gone; the work has been cancelled, and has ended.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        await _end(task, gone)


async def _gone(receive: Receive) -> None:
    """Waits until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def interleaved(sources: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[tuple[int, Item]]:
    """The items of several generators as they come, each with its generator's number.

    When it is closed, or one of them fails, all are closed.
    """
    if len(sources) == 1:
        try:
            async for item in sources[0]:
                yield 0, item
        finally:
            await sources[0].aclose()
        return
    found: asyncio.Queue[tuple[int, Item | BaseException | None]] = asyncio.Queue()

    async def read(number: int, source: AsyncGenerator[Item]) -> None:
        try:
            async for item in source:
                found.put_nowait((number, item))
            found.put_nowait((number, None))
        except Exception as error:
            found.put_nowait((number, error))
        finally:
            await source.aclose()

    tasks = [asyncio.create_task(read(number, source)) for number, source in enumerate(sources)]
    try:
        left = len(sources)
        while left:
            number, news = await found.get()
            if isinstance(news, BaseException):
                raise news
            if news is None:
                left -= 1
            else:
                yield number, news
    finally:
        await _end(*tasks)


async def begun(items: AsyncGenerator[Item]) -> AsyncGenerator[Item]:
    """The same items, once the first is there: what is wrong with a request is known by then, and can be its status.

    Raises:
        PenjingError: as of the generator.
    """
    try:
        first = await anext(items)
    except BaseException:
        await items.aclose()
        raise
    return _with_first(first, items)


async def _with_first(first: Item, items: AsyncGenerator[Item]) -> AsyncGenerator[Item]:
    try:
        yield first
        async for item in items:
            yield item
    finally:
        await items.aclose()


class EventStream(Response):
    """An answer that comes in server-sent events, and is given up when the client goes away.

    Args:
        events: the lines of each event, as `event_of` makes them.
        closed: is closed with the answer, if the events' generator never began.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], closed: AsyncGenerator[Any] | None = None):
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._events = events
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _end(sending, gone)
            await self._events.aclose()
            if self._closed is not None:
                await self._closed.aclose()

    async def _send(self, send: Send) -> None:
        start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        with suppress(OSError):  # the connection broke
            async for content in self._events:
                await send({"type": "http.response.body", "body": content, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def event_of(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """A server-sent event with JSON in it."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


DONE = b"data: [DONE]\n\n"
"""How OpenAI's streams end."""


async def until_error(events: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The events; an error on the way is the last one, for the status has been sent."""
    try:
        async for content in events:
            yield content
    except (ApiError, PenjingError) as error:
        yield event_of((error if isinstance(error, ApiError) else api_error(error)).body)
    except Exception as error:
        event("stream failed", level=40, error=error)
        yield event_of({"error": {"message": "the server failed", "type": "server_error", "param": None, "code": None}})
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()
