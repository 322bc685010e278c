"""The routes of files: conversations out and in again, and what the thumbs say."""

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from penjing.serving.conversations import preferences, transfer
from penjing.serving.conversations.errors import TooLargeError
from penjing.serving.conversations.parts import Here, User
from penjing.serving.conversations.policy import checked_whole
from penjing.serving.conversations.records import Conversation

Form = Annotated[transfer.Format, Query(alias="format")]


async def export(parts: Here, user: User, id: str, form: Form = "json") -> Response:
    """A conversation as a file: json is the whole tree, sharegpt and markdown the branch that is shown."""
    found = await parts.settled(user, id)
    text = await asyncio.to_thread(transfer.write, [found], form)
    return Response(text, media_type=transfer.TYPES[form], headers=_attached(transfer.file_name(found, form)))


async def export_all(
    parts: Here, user: User, form: Annotated[Literal["json", "sharegpt"], Query(alias="format")] = "json"
) -> Response:
    """All conversations of the user as a file."""
    several = await asyncio.to_thread(parts.store.all_of, user)
    text = await asyncio.to_thread(transfer.write, several, form)
    return Response(text, media_type=transfer.TYPES[form], headers=_attached(f"conversations{transfer.ENDINGS[form]}"))


async def take_in(
    parts: Here,
    user: User,
    request: Request,
    form: Annotated[Literal["auto", "json", "sharegpt", "markdown"], Query(alias="format")] = "auto",
) -> Response:
    """Stores the conversations of a file, the request's body, under new ids: all of them or none."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > transfer.LONGEST_FILE:
            raise TooLargeError(f"the file is larger than {transfer.LONGEST_FILE:,} bytes")

    def stored() -> list[Conversation]:
        found = transfer.read(bytes(data), form)
        return parts.store.add_all(user, [checked_whole(parts.policy, one, user) for one in found])

    made = await asyncio.to_thread(stored)
    return JSONResponse({"conversations": [{"id": one.id, "title": one.title} for one in made]}, 201)


async def feedback(parts: Here, user: User, kind: preferences.Kind = "pairs") -> StreamingResponse:
    """The thumbs as JSON lines to learn from: pairs of replies, or each reply by itself."""

    def lines() -> Iterator[str]:
        for record in preferences.exported(parts.store, user, kind):
            yield json.dumps(record, ensure_ascii=False) + "\n"

    return StreamingResponse(lines(), media_type="application/jsonl", headers=_attached(f"preferences-{kind}.jsonl"))


def _attached(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}", "Cache-Control": "no-store"}
