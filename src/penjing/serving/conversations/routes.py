"""The routes of conversations and their messages. What they do is the store's and the replies'; here it meets HTTP."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from penjing.serving.conversations import bodies
from penjing.serving.conversations.context import plan
from penjing.serving.conversations.errors import ConflictError, NotFoundError, StorageError
from penjing.serving.conversations.events import Event, stream
from penjing.serving.conversations.parts import Here, Parts, User
from penjing.serving.conversations.policy import checked, checked_settings
from penjing.serving.conversations.presets import Preset
from penjing.serving.conversations.records import Conversation, Message, Settings
from penjing.serving.conversations.store import LEAF, MOST_LISTED

_POLL = 0.3
"""Seconds between two looks at a reply that another server writes."""


async def listed(
    parts: Here,
    user: User,
    query: str = "",
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 50,
    before: str | None = None,
) -> Response:
    """The conversations, those last changed first; with a query, those in which each of its words is found."""
    found, more = await asyncio.to_thread(parts.store.page, user, query=query, limit=limit, before=before)
    return JSONResponse({"conversations": [vars(one) for one in found], "more": more})


async def create(parts: Here, user: User, body: bodies.NewConversation) -> Response:
    """Begins a conversation, with a preset or settings of its own."""
    given = {name: value for name, value in bodies.given(body).items() if value is not None}
    title, preset = given.pop("title", ""), given.pop("preset", None)
    if preset is not None:
        found = await asyncio.to_thread(parts.store.presets.get, user, preset)
        given = {"system": found.system, "sampling": dict(found.sampling)} | given
    settings = await asyncio.to_thread(checked_settings, parts.policy, Settings.of(given), user)
    made = await asyncio.to_thread(parts.store.create, user, settings, title)
    return JSONResponse(parts.whole(made), 201)


async def read(parts: Here, user: User, id: str) -> Response:
    """A conversation with all its branches."""
    return await _whole(parts, await parts.settled(user, id))


async def change(parts: Here, user: User, id: str, body: bodies.ConversationChange) -> Response:
    """Renames a conversation, shows another branch, or sets how the model answers."""
    given, settings = bodies.given(body), None
    if given.get("settings") is not None:
        now = (await asyncio.to_thread(parts.store.get, user, id)).settings
        new = Settings.of(now.to_dict() | given["settings"])
        settings = await asyncio.to_thread(checked_settings, parts.policy, new, user)
    title, leaf = given.get("title"), given.get("leaf")
    changed = await asyncio.to_thread(parts.store.change, user, id, title=title, leaf=leaf, settings=settings)
    return await _whole(parts, changed)


async def delete(parts: Here, user: User, id: str) -> Response:
    """Deletes a conversation with everything in it."""
    await asyncio.to_thread(parts.store.delete, user, id)
    return JSONResponse({"deleted": id})


async def fork(parts: Here, user: User, id: str, body: bodies.ForkBody) -> Response:
    """A new conversation: the branch up to and with a message."""
    return await _whole(parts, await asyncio.to_thread(parts.store.fork, user, id, body.message), 201)


async def budget(parts: Here, user: User, id: str, leaf: str | None = None) -> Response:
    """How many tokens a branch takes of the model's context, and which turns the model no longer sees."""
    found = await asyncio.to_thread(parts.store.get, user, id)
    if leaf is not None and all(leaf != message.id for message in found.messages):
        raise NotFoundError("there is no such message in this conversation")
    backend = await parts.backends.get(found.settings.model)
    path = found.path(leaf)
    summaries = await asyncio.to_thread(parts.store.summaries, path)
    made = await asyncio.to_thread(plan, backend.count, backend.context, found.settings, path, summaries)
    return JSONResponse(made.to_dict())


# messages


async def say(parts: Here, user: User, id: str, body: bodies.NewMessage) -> StreamingResponse:
    """Adds a message of the user, and streams the reply. Given the parent of another message, it makes a branch."""
    content, notice = await asyncio.to_thread(checked, parts.policy, body.content, user)
    parent = body.parent if "parent" in body.model_fields_set else LEAF
    asked: list[Message] = []

    def ask() -> Message:
        question, reply = parts.store.ask(user, id, content, parent, notice=notice)
        asked.append(question)
        return reply

    if notice is not None and notice["action"] == "block":
        refusal = await asyncio.to_thread(ask)
        return stream(_refused(parts, asked[0], refusal, notice))
    run = await parts.replies.begin(user, id, ask, parts.backends, parts.policy)
    return stream(_after(Event("message", parts.html.record(asked[0])), run.watch()))


async def regenerate(parts: Here, user: User, id: str, message: str) -> StreamingResponse:
    """Another reply beside this one; of a message of the user, a reply to it."""
    found = await asyncio.to_thread(parts.store.message, user, id, message)
    question = found.id if found.role == "user" else found.parent
    if question is None:
        raise ConflictError("this reply answers no message; there is nothing to answer again")
    model = (await asyncio.to_thread(parts.store.get, user, id)).settings.model

    def begin() -> Message:
        return parts.store.replies.begin(user, id, question, model)

    run = await parts.replies.begin(user, id, begin, parts.backends, parts.policy)
    return stream(run.watch())


async def follow(parts: Here, user: User, id: str, message: str) -> StreamingResponse:
    """A reply from where it is: what it has said, then what it says."""
    found = await asyncio.to_thread(parts.store.message, user, id, message)
    run = parts.replies.running(message)
    return stream(_elsewhere(parts, user, found) if run is None else run.watch())


async def stop(parts: Here, user: User, id: str, message: str) -> Response:
    """Ends a reply that is being written; it keeps what it has said."""
    found = await asyncio.to_thread(parts.store.message, user, id, message)
    if parts.replies.running(message) is not None:
        await parts.replies.stop(message)
    elif found.status == "running":
        await asyncio.to_thread(parts.store.replies.interrupt, user, id, message)
    ended = await asyncio.to_thread(parts.store.message, user, id, message)
    return JSONResponse(await asyncio.to_thread(parts.record, ended))


async def mark(parts: Here, user: User, id: str, message: str, body: bodies.MessageChange) -> Response:
    """Thumbs up or down, a note, or a pin that keeps the message's turn in the model's context."""
    marked = await asyncio.to_thread(lambda: parts.store.mark(user, id, message, **bodies.given(body)))
    return JSONResponse(await asyncio.to_thread(parts.record, marked))


async def remove(parts: Here, user: User, id: str, message: str) -> Response:
    """Deletes a message and all that follow it."""
    gone, leaf = await asyncio.to_thread(parts.store.remove, user, id, message)
    return JSONResponse({"removed": gone, "leaf": leaf})


# presets


async def presets(parts: Here, user: User) -> Response:
    """The user's presets."""
    found = await asyncio.to_thread(parts.store.presets.of, user)
    return JSONResponse({"presets": [preset.to_dict() for preset in found]})


async def put_presets(parts: Here, user: User, body: bodies.PresetsBody) -> Response:
    """Replaces the user's presets."""
    new = [Preset(one.name, one.system, bodies.given(one.sampling)) for one in body.presets]
    kept = await asyncio.to_thread(parts.store.presets.put, user, new)
    return JSONResponse({"presets": [preset.to_dict() for preset in kept]})


async def _whole(parts: Parts, found: Conversation, status: int = 200) -> Response:
    return JSONResponse(await asyncio.to_thread(parts.whole, found), status)  # drawing a long one takes time


async def _after(first: Event, more: AsyncIterator[Event]) -> AsyncIterator[Event]:
    yield first
    async for event in more:
        yield event


async def _refused(parts: Parts, question: Message, reply: Message, notice: Mapping[str, Any]) -> AsyncIterator[Event]:
    yield Event("message", parts.html.record(question))
    yield Event("message", parts.html.record(reply))
    yield Event("blocked", notice)
    yield Event("done", parts.html.record(reply))


async def _elsewhere(parts: Parts, user: str, message: Message) -> AsyncIterator[Event]:
    """A reply that is over, or that another server writes to the same database."""
    yield Event("message", await asyncio.to_thread(parts.record, message))
    growing, shown = parts.html.growing(), 0
    while message.status == "running":
        # nobody writes it: its process died, or could not store its end
        await parts.settled(user, message.conversation)
        new, shown = message.content[shown:], len(message.content)
        if new:
            yield Event("text", {"text": new})
            for block in await asyncio.to_thread(growing.push, new):
                yield Event("block", {"index": block.index, "html": block.html})
        await asyncio.sleep(_POLL)
        yield Event()
        try:
            message = await asyncio.to_thread(parts.store.message, user, message.conversation, message.id)
        except NotFoundError:
            yield Event("error", {"message": "it was deleted"})
            return
        except StorageError:
            continue
    yield Event("done", await asyncio.to_thread(parts.record, message))
