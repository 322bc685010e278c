"""The tree, in both databases: what is asked, answered, edited, forked and deleted, and what nobody else sees."""

from dataclasses import replace

import pytest

from penjing.serving.conversations.errors import ConflictError, ConversationError, NotFoundError, TooLargeError
from penjing.serving.conversations.presets import Preset
from penjing.serving.conversations.records import LONGEST_CONTENT, Settings, title_of
from penjing.serving.conversations.store import Store


def answered(store, id, content, reply, user="mei", **more):
    """A question and its finished reply."""
    question, running = store.ask(user, id, content, **more)
    return question, store.replies.finish(running.id, content=reply)


def test_a_conversation_is_kept_as_it_was_said(store, place):
    chat = store.create("mei", Settings(model="tiny", system="Be brief.", sampling={"temperature": 0.5}))
    question, running = store.ask("mei", chat.id, "What is a 盆景?\n😀")
    assert (running.status, running.parent, running.model) == ("running", question.id, "tiny")
    assert store.replies.append({running.id: "A landscape "}) == {running.id}
    store.replies.append({running.id: "in a tray."})
    assert store.get("mei", chat.id).messages[-1].content == "A landscape in a tray."
    call = {"id": "1", "name": "clock", "arguments": {"zone": "东"}, "result": "12"}
    store.replies.finish(running.id, content="A landscape in a tray.", usage={"seconds": 1.5}, tool_calls=[call])
    store.close()
    again = Store.open(place, serve=True)
    found = again.get("mei", chat.id)
    again.close()
    assert found.settings == Settings(model="tiny", system="Be brief.", sampling={"temperature": 0.5})
    assert found.title == "What is a 盆景?"
    assert [(one.role, one.content, one.status) for one in found.path()] == [
        ("user", "What is a 盆景?\n😀", "done"),
        ("assistant", "A landscape in a tray.", "done"),
    ]
    assert found.messages[1].usage == {"seconds": 1.5}
    assert found.messages[1].tool_calls == (call,)


def test_editing_and_answering_again_make_branches(store):
    chat = store.create("mei")
    question, reply = answered(store, chat.id, "One?", "1")
    again = store.replies.begin("mei", chat.id, question.id, None)
    store.replies.finish(again.id, content="One.")
    assert store.get("mei", chat.id).leaf == again.id
    edited, _reply_to_edited = answered(store, chat.id, "Two?", "2", parent=None)
    assert edited.parent is None
    found = store.get("mei", chat.id)
    assert [one.content for one in found.path()] == ["Two?", "2"]
    assert len(found.messages) == 5
    # the arrows between branches: naming a message shows the newest branch through it
    assert store.change("mei", chat.id, leaf=question.id).leaf == again.id
    assert store.change("mei", chat.id, leaf=reply.id).leaf == reply.id


def test_deleting_a_message_deletes_what_follows_it_and_nothing_else(store):
    chat = store.create("mei")
    first, first_reply = answered(store, chat.id, "apple", "banana")
    second, second_reply = answered(store, chat.id, "cherry", "date")
    gone, leaf = store.remove("mei", chat.id, second.id)
    assert (gone, leaf) == ([second.id, second_reply.id], first_reply.id)
    assert [one.id for one in store.get("mei", chat.id).messages] == [first.id, first_reply.id]
    assert store.page("mei", query="cherry") == ([], False)
    gone, leaf = store.remove("mei", chat.id, first.id)
    assert (leaf, store.get("mei", chat.id).messages) == (None, ())


def test_a_branch_of_more_than_a_thousand_messages_is_deleted_at_once(store):
    """SQLite follows a chain of deletions 1,000 steps at most: deleting must not rely on it."""
    chat = store.create("mei")
    _question, _ = answered(store, chat.id, "0", "0")
    whole = store.get("mei", chat.id)
    chain = list(whole.messages)
    for number in range(1, 1100):
        chain.append(replace(chain[-1], id=str(number), parent=chain[-1].id, role="user", content=str(number)))
    long = store.add("mei", replace(whole, messages=tuple(chain), leaf=chain[-1].id))
    gone, leaf = store.remove("mei", long.id, long.messages[1].id)
    assert (len(gone), leaf) == (1100, long.messages[0].id)


def test_a_fork_is_the_branch_up_to_a_message(store):
    chat = store.create("mei", Settings(system="s"), "A title")
    _question, reply = answered(store, chat.id, "One?", "1")
    answered(store, chat.id, "Two?", "2")
    store.mark("mei", chat.id, reply.id, feedback=1, pinned=True, note="good")
    fork = store.fork("mei", chat.id, reply.id)
    copied = store.get("mei", fork.id)
    assert [one.content for one in copied.messages] == ["One?", "1"]
    assert (copied.messages[1].feedback, copied.messages[1].pinned, copied.messages[1].note) == (1, True, "good")
    assert (copied.title, copied.settings) == ("A title", Settings(system="s"))
    store.delete("mei", chat.id)
    assert store.get("mei", fork.id) == copied
    assert {one.id for one in store.page("mei", query="1")[0]} == {fork.id}


def test_what_is_another_users_does_not_exist(store):
    chat = store.create("mei", title="secret")
    question, reply = answered(store, chat.id, "hidden words", "hidden reply")
    store.presets.put("mei", [Preset("mine", "x")])
    for theirs in (
        lambda: store.get("bo", chat.id),
        lambda: store.message("bo", chat.id, reply.id),
        lambda: store.change("bo", chat.id, title="x"),
        lambda: store.delete("bo", chat.id),
        lambda: store.fork("bo", chat.id, reply.id),
        lambda: store.ask("bo", chat.id, "Hi"),
        lambda: store.mark("bo", chat.id, reply.id, feedback=1),
        lambda: store.remove("bo", chat.id, reply.id),
        lambda: store.replies.begin("bo", chat.id, question.id, None),
        lambda: store.replies.interrupt("bo", chat.id, reply.id),
        lambda: store.summarize("bo", chat.id, reply.id, "s", "m"),
        lambda: store.page("bo", before=chat.id),
        lambda: store.presets.get("bo", "mine"),
    ):
        with pytest.raises(NotFoundError):
            theirs()
    assert store.page("bo", query="hidden") == ([], False)
    assert store.all_of("bo") == []
    # and a message of one's own other conversation is none of this one
    other = store.create("mei")
    mine, _ = answered(store, other.id, "a", "b")
    for elsewhere in (
        lambda: store.ask("mei", chat.id, "Hi", parent=mine.id),
        lambda: store.change("mei", chat.id, leaf=mine.id),
        lambda: store.remove("mei", chat.id, mine.id),
        lambda: store.mark("mei", chat.id, mine.id, pinned=True),
    ):
        with pytest.raises(NotFoundError):
            elsewhere()


def test_a_running_reply_is_waited_for_and_ends_when_deleted(store):
    chat = store.create("mei")
    question, running = store.ask("mei", chat.id, "Hi")
    with pytest.raises(ConflictError, match="still being written"):
        store.ask("mei", chat.id, "And?")
    with pytest.raises(ConflictError, match="still being written"):
        store.fork("mei", chat.id, running.id)
    for _ in range(3):
        store.replies.begin("mei", chat.id, question.id, None)
    with pytest.raises(ConflictError, match="4 replies"):
        store.replies.begin("mei", chat.id, question.id, None)
    store.remove("mei", chat.id, running.id)
    assert store.replies.append({running.id: "late"}) == set()
    assert store.replies.finish(running.id, content="late") is None


def test_lists_go_on_where_they_ended_even_at_the_same_moment(store, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1000.0)
    made = {store.create("mei", title=f"chat {number}").id for number in range(7)}
    seen, before = [], None
    while True:
        page, more = store.page("mei", limit=3, before=before)
        seen += [one.id for one in page]
        before = page[-1].id
        if not more:
            break
    assert sorted(seen) == sorted(made)


def test_what_is_too_large_or_no_text_is_refused_and_nothing_is_stored(store):
    chat = store.create("mei")
    for content, kind, words in (
        ("x" * (LONGEST_CONTENT + 1), TooLargeError, "262,144"),
        ("a\0b", ConversationError, "NUL"),
        ("a\ud800", ConversationError, "surrogate"),
        (" \n", ConversationError, "empty"),
    ):
        with pytest.raises(kind, match=words):
            store.ask("mei", chat.id, content)
    with pytest.raises(TooLargeError, match="title"):
        store.change("mei", chat.id, title="x" * 201)
    for settings, words in (
        ({"system": 3}, "system"),
        ({"sampling": {"temprature": 1}}, "did you mean 'temperature'"),
        ({"sampling": {"top_p": 2}}, "top_p"),
        ({"sampling": {"temperature": "hot"}}, "temperature"),
        ({"context": "all"}, "context"),
        ({"modell": "x"}, "did you mean 'model'"),
    ):
        with pytest.raises(ConversationError, match=words):
            Settings.of(settings)
    assert store.get("mei", chat.id).messages == ()
    assert store.get("mei", chat.id).title == ""


def test_thumbs_notes_and_pins(store):
    chat = store.create("mei")
    question, reply = answered(store, chat.id, "Hi", "Hello")
    assert store.mark("mei", chat.id, reply.id, feedback=-1, note="cold").feedback == -1
    assert store.mark("mei", chat.id, reply.id, feedback=None).note == "cold"
    assert store.mark("mei", chat.id, question.id, pinned=True).pinned
    with pytest.raises(ConversationError, match="about replies"):
        store.mark("mei", chat.id, question.id, feedback=1)
    with pytest.raises(ConversationError, match="1, -1 or null"):
        store.mark("mei", chat.id, reply.id, feedback=2)


def test_presets_are_replaced_as_a_whole_or_not_at_all(store):
    kept = [Preset("b", "Be brief.", {"temperature": 0.2}), Preset("a")]
    assert store.presets.put("mei", kept) == kept
    for wrong, words in (
        ([Preset("x"), Preset("x")], "same name"),
        ([Preset(" ")], "no name"),
        ([Preset("x", sampling={"top_k": 0})], "top_k"),
        ([Preset(str(number)) for number in range(101)], "100"),
    ):
        with pytest.raises(ConversationError, match=words):
            store.presets.put("mei", wrong)
    assert store.presets.of("mei") == kept
    assert store.presets.of("bo") == []


def test_a_title_is_the_first_line_cut_at_a_word():
    assert title_of("\n  How do magnets work?\nThanks") == "How do magnets work?"
    assert title_of("word " * 30) == "word " * 11 + "word…"
    assert title_of("盆" * 100) == "盆" * 60 + "…"
    assert title_of(" \n ") == ""
