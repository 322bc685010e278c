"""Replies in the background: who watches, who stops, what the policy takes out, and what faults of the database do."""

import asyncio

import pytest

from penjing.serving.conversations import replies as replies_module
from penjing.serving.conversations.errors import BusyError, FullError, TooManyError
from penjing.serving.conversations.html import Html
from penjing.serving.conversations.records import LONGEST_CONTENT, Settings
from penjing.serving.conversations.replies import Replies
from penjing.serving.conversations.store import Store
from tests.serving.conversations.fakes import PLAIN, OneModel, Rules, WordPolicy


@pytest.fixture
def store(tmp_path):
    opened = Store.open(tmp_path / "chats.db", serve=True, patience=30)
    yield opened
    opened.close()


class Scene:
    """A conversation, a model that answers by rule, and replies to it."""

    def __init__(self, store, policy=None, settings=None, **more):
        self.store, self.model, self.policy = store, Rules(), policy
        self.replies = Replies(store, Html(PLAIN), **more)
        self.chat = store.create("mei", settings or Settings())

    async def say(self, content, **more):
        ask = lambda: self.store.ask("mei", self.chat.id, content, **more)[1]  # noqa: E731
        return await self.replies.begin("mei", self.chat.id, ask, OneModel(self.model), self.policy)

    async def all_of(self, content, **more):
        run = await self.say(content, **more)
        return [event async for event in run.watch()]

    def stored(self):
        return self.store.get("mei", self.chat.id).path()


def run(scene_of, store, *arguments, **more):
    """Runs a coroutine function on a new scene, and closes its replies."""

    async def go():
        scene = Scene(store, *arguments, **more)
        try:
            return await scene_of(scene)
        finally:
            await scene.replies.close()

    return asyncio.run(asyncio.wait_for(go(), 60))


def texts(events):
    return "".join(event.data["text"] for event in events if event.name == "text")


def test_a_reply_is_stored_as_it_was_shown(store):
    async def scene(scene):
        events = await scene.all_of("Hi there")
        return events, scene.stored()

    events, path = run(scene, store)
    assert [events[0].name, events[-1].name] == ["message", "done"]
    assert events[0].data["status"] == "running"
    assert texts(events) == "You said: Hi there " == path[1].content == events[-1].data["content"]
    shown = {event.data["index"]: event.data["html"] for event in events if event.name == "block"}
    assert shown == {0: "<p>You said: Hi there </p>"}
    assert events[-1].data["usage"]["prompt_tokens"] == 4
    assert (path[1].status, path[1].model) == ("done", "rules")


def test_a_watcher_that_comes_back_begins_with_all_there_is_and_misses_nothing(store):
    async def scene(scene):
        run = await scene.say("slowly: a b c d e")
        first = run.watch()
        seen = [await anext(first)]
        scene.model.allow(2)
        while texts(seen) != "a b ":
            seen.append(await anext(first))
        await first.aclose()  # the page was closed
        late = run.watch()
        came = [await anext(late)]
        assert came[0].data["content"] == "a b "
        assert (await anext(late)).data == {"index": 0, "html": "<p>a b </p>"}
        scene.model.allow(3)
        came += [event async for event in late]
        return came

    came = run(scene, store)
    assert texts(came) == "c d e "
    assert came[-1].data["content"] == "a b c d e "


def test_what_was_shown_is_stored_already(store):
    """A crash at any moment loses nothing that anyone saw: the store is read whenever something was shown."""

    async def scene(scene):
        run = await scene.say("slowly: one two three four")
        seen = ""
        async for event in run.watch():
            if event.name in ("message", "text"):
                seen += event.data.get("text", "")
                kept = await asyncio.to_thread(scene.store.message, "mei", scene.chat.id, run.id)
                assert kept.content.startswith(seen)
                scene.model.allow()
        return seen

    assert run(scene, store) == "one two three four "


async def past_the_first_text(run):
    """Someone who watches a reply, and has been told of its first words."""
    watcher = run.watch()
    async for event in watcher:
        if event.name == "text":
            break
    return watcher


def test_stopping_keeps_what_was_said_and_ends_the_models_work(store):
    async def scene(scene):
        run = await scene.say("forever")
        watcher = await past_the_first_text(run)
        await scene.replies.stop(run.id)
        return [event async for event in watcher], scene

    events, scene = run(scene, store)
    reply = scene.stored()[-1]
    assert (reply.status, reply.error) == ("interrupted", None)
    assert reply.content.startswith("more ")
    assert events[-1].name == "done"
    assert events[-1].data["content"] == reply.content
    assert scene.model.closed == 1


@pytest.mark.parametrize(
    ("said", "content", "error"),
    [("fail", "Well, ", "the model's server is away"), ("bug", "", "the model failed; the server's log says why")],
)
def test_a_model_that_fails_leaves_what_it_said_and_why(store, said, content, error):
    async def scene(scene):
        return await scene.all_of(said), scene.stored()

    events, path = run(scene, store)
    assert [event.name for event in events[-2:]] == ["error", "done"]
    assert events[-2].data == {"message": error}
    assert (path[-1].status, path[-1].content, path[-1].error) == ("interrupted", content, error)


def test_an_unknown_model_is_an_interrupted_reply_that_says_so(store):
    async def scene(scene):
        await scene.all_of("Hi")
        return scene.stored()

    path = run(scene, store, settings=Settings(model="none"))
    assert path[0].content == "Hi"
    assert "there is no model 'none'" in path[1].error


def test_tools_are_shown_stored_and_told_to_the_model_next_time(store):
    async def scene(scene):
        events = await scene.all_of("tool")
        await scene.all_of("Thanks")
        return events, scene

    events, scene = run(scene, store)
    results = [event.data["result"] for event in events if event.name == "tool"]
    assert results[-1] == "12:00"
    reply = scene.stored()[1]
    assert reply.tool_calls == ({"id": "call-1", "name": "clock", "arguments": {"zone": "东"}, "result": "12:00"},)
    told = scene.model.asked[1].messages
    assert [message["role"] for message in told] == ["user", "assistant", "tool", "assistant", "user"]
    assert told[2]["content"] == "12:00"


def test_a_blocked_word_is_never_shown_and_ends_the_reply(store):
    async def scene(scene):
        return await scene.all_of("fine so far BAD and on"), scene.stored()

    # the policy of the input is the routes' to ask; here the model repeats the word
    events, path = run(scene, store, WordPolicy())
    assert path[-1].status == "blocked"
    assert path[-1].content == texts(events) == "You said: fine so far "
    assert path[-1].notice == {
        "action": "block",
        "reasons": ["a bad word"],
        "help": None,
        "message": "Say it kindly.",
    }
    assert [event.data["action"] for event in events if event.name == "blocked"] == ["block"]
    assert not any("BAD" in str(event.data) for event in events)


def test_a_secret_is_taken_out_of_what_is_shown_stored_and_told(store):
    async def scene(scene):
        await scene.all_of("the SECRET word")
        await scene.all_of("again")
        return scene

    scene = run(scene, store, WordPolicy())
    assert scene.stored()[1].content == "You said: the [gone] word "
    assert scene.stored()[1].notice["action"] == "redact"
    assert scene.model.asked[1].messages[1]["content"] == "You said: the [gone] word "


def test_a_reply_that_grows_without_end_is_stopped(store, monkeypatch):
    monkeypatch.setattr(replies_module, "LONGEST_CONTENT", 1000)
    assert LONGEST_CONTENT > 1000

    async def scene(scene):
        await scene.all_of("forever")
        return scene.stored()[-1]

    reply = run(scene, store)
    assert len(reply.content) == 1000
    assert (reply.status, "longer than" in reply.error) == ("interrupted", True)


def test_what_no_database_takes_is_replaced(store):
    async def scene(scene):
        class Odd(Rules):
            async def _pieces(self, said, ask):
                from penjing.serving.backend import Text

                yield Text("a\0b\ud800c 😀")

        scene.model = Odd()
        await scene.all_of("Hi")
        return scene.stored()[-1].content

    assert run(scene, store) == "a\ufffdb\ufffdc 😀"


def test_a_deleted_reply_ends_and_stores_nothing(store):
    async def scene(scene):
        run = await scene.say("forever")
        watcher = await past_the_first_text(run)
        await asyncio.to_thread(scene.store.delete, "mei", scene.chat.id)
        events = [event async for event in watcher]
        return events, scene

    events, scene = run(scene, store)
    assert (events[-1].name, events[-1].data["error"]) == ("done", "it was deleted")
    assert scene.store.page("mei") == ([], False)
    assert scene.model.closed == 1


def test_a_locked_database_delays_a_reply_and_loses_nothing(store, monkeypatch):
    real, faults = store.replies.append, iter([BusyError("locked")] * 3)

    def append(said):
        fault = next(faults, None)
        if fault is not None:
            raise fault
        return real(said)

    monkeypatch.setattr(store.replies, "append", append)
    monkeypatch.setattr(replies_module, "_AGAIN", 0.0)

    async def scene(scene):
        return await scene.all_of("Hi"), scene.stored()

    events, path = run(scene, store)
    assert texts(events) == "You said: Hi " == path[-1].content
    assert path[-1].status == "done"


def test_a_full_disk_ends_a_reply_with_the_reason_and_keeps_what_was_shown(store, monkeypatch):
    real, room = store.replies.append, iter([True])

    def full(*_, **__):
        raise FullError("the disk is full")

    def append(said):
        return real(said) if next(room, False) else full()

    monkeypatch.setattr(store.replies, "append", append)
    monkeypatch.setattr(store.replies, "finish", full)

    async def scene(scene):
        run = await scene.say("slowly: a b c d")
        watcher, seen = run.watch(), []
        scene.model.allow(1)
        async for event in watcher:
            seen.append(event)
            if event.name == "text":
                scene.model.allow(3)
        still = await asyncio.to_thread(scene.store.get, "mei", scene.chat.id)
        assert still.messages[-1].status == "running"  # its end could not be stored
        assert await scene.replies.settle(still)  # and now it can
        return seen, scene.stored()

    seen, path = run(scene, store)
    assert seen[-2].data == {"message": "the disk is full"}
    assert seen[-1].data["status"] == "interrupted"
    assert (path[-1].status, path[-1].content) == ("interrupted", "a ")
    assert texts(seen) == "a "


def test_when_the_server_stops_replies_end_in_an_orderly_way(store):
    async def scene(scene):
        run = await scene.say("slowly: a b c")
        scene.model.allow(1)
        async for event in run.watch():
            if event.name == "text":
                break
        await scene.replies.close()
        scene.model.allow(9)  # the model's thread, which waits, may go
        return scene.stored()[-1]

    reply = run(scene, store)
    assert (reply.content, reply.status, reply.error) == ("a ", "interrupted", "the server stopped")


def test_nobody_has_more_than_their_share_of_replies_at_once(store, monkeypatch):
    monkeypatch.setattr(replies_module, "MOST_OF_A_USER", 1)

    async def scene(scene):
        first = await scene.say("forever")
        with pytest.raises(TooManyError):
            await scene.say("Hi", parent=None)
        assert len(scene.stored()) == 2
        await scene.replies.stop(first.id)
        await scene.all_of("Hi")

    run(scene, store)


def test_many_replies_at_once_are_each_stored_whole(store):
    async def scene(scene):
        chats = [await asyncio.to_thread(store.create, "mei") for _ in range(12)]

        async def one(number, chat):
            ask = lambda: store.ask("mei", chat.id, f"number {number}")[1]  # noqa: E731
            run = await scene.replies.begin("mei", chat.id, ask, OneModel(scene.model), None)
            return [event async for event in run.watch()][-1].data["content"]

        return await asyncio.gather(*(one(number, chat) for number, chat in enumerate(chats)))

    assert run(scene, store) == [f"You said: number {number} " for number in range(12)]
