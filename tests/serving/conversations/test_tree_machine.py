"""Whatever is done to conversations, in any order: the tree stays a tree, and search finds what reading would find.

The oracle is a model of the store in a few dictionaries, and a scan of everything for each search.
"""

import itertools
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from penjing.serving.conversations import transfer
from penjing.serving.conversations.records import folded
from penjing.serving.conversations.store import Store

SAID = st.text(alphabet="abA 盆景美Ａéß\n😀\u0301'\"*", min_size=1, max_size=12).filter(str.strip)
QUERIES = st.one_of(SAID, st.sampled_from(["a", "盆", "盆景", "ss", "景 a", "美b", "é", "\u0301", '"', "*", "a*"]))
_users = itertools.count()


@dataclass
class Chat:
    """What a conversation should be: parents, texts and statuses by id, in order."""

    title: str
    parents: dict = field(default_factory=dict)
    said: dict = field(default_factory=dict)
    running: set = field(default_factory=set)
    leaf: str | None = None

    def below(self, top):
        found = {top}
        for id, parent in self.parents.items():
            if parent in found:
                found.add(id)
        return found

    def newest_leaf(self, among):
        return next((id for id in reversed(self.parents) if id in among and id not in self.parents.values()), None)


class Machine(RuleBasedStateMachine):
    store: Store

    def __init__(self):
        super().__init__()
        self.user = f"user-{next(_users)}"
        self.chats: dict[str, Chat] = {}

    def a_chat(self, number):
        return list(self.chats.items())[number % len(self.chats)]

    def a_message(self, number, which=lambda chat, id: True):
        found = [(id, m) for id, chat in self.chats.items() for m in chat.parents if which(chat, m)]
        return found[number % len(found)] if found else None

    @rule(title=st.sampled_from(["", "Tea 茶", "a"]))
    def create(self, title):
        made = self.store.create(self.user, title=title)
        self.chats[made.id] = Chat(title)

    @precondition(lambda self: self.chats)
    @rule(number=st.integers(0, 99), content=SAID, how=st.sampled_from(["leaf", "first", "any"]), at=st.integers(0, 99))
    def ask(self, number, content, how, at):
        id, chat = self.a_chat(number)
        more, parent = {}, chat.leaf
        free = [m for m in chat.parents if m not in chat.running]
        if how != "leaf":
            parent = None if how == "first" or not free else free[at % len(free)]
            more = {"parent": parent}
        if parent in chat.running or len(chat.running) >= 4:
            return
        question, reply = self.store.ask(self.user, id, content, **more)
        chat.parents |= {question.id: parent, reply.id: question.id}
        chat.said |= {question.id: content, reply.id: ""}
        chat.running.add(reply.id)
        chat.leaf = reply.id
        if not chat.title:
            chat.title = self.store.get(self.user, id).title

    @rule(number=st.integers(0, 99), pieces=st.lists(SAID, max_size=3), ends=st.booleans())
    def reply(self, number, pieces, ends):
        if (found := self.a_message(number, lambda chat, m: m in chat.running)) is None:
            return
        id, message = found
        for piece in pieces:
            assert self.store.replies.append({message: piece}) == {message}
            self.chats[id].said[message] += piece
        if ends:
            self.store.replies.finish(message, content=self.chats[id].said[message])
            self.chats[id].running.discard(message)

    @rule(number=st.integers(0, 99))
    def answer_again(self, number):
        found = self.a_message(number, lambda chat, m: chat.parents[m] is not None and len(chat.running) < 4)
        if found is None:
            return
        id, message = found
        chat = self.chats[id]
        if self.store.message(self.user, id, chat.parents[message]).role != "user":
            return
        reply = self.store.replies.begin(self.user, id, chat.parents[message], None)
        chat.parents[reply.id], chat.said[reply.id], chat.leaf = chat.parents[message], "", reply.id
        chat.running.add(reply.id)

    @rule(number=st.integers(0, 99))
    def remove(self, number):
        if (found := self.a_message(number)) is None:
            return
        id, message = found
        chat = self.chats[id]
        gone = chat.below(message)
        above = chat.parents[message]
        told, leaf = self.store.remove(self.user, id, message)
        assert set(told) == gone  # exactly the subtree
        chat.parents = {m: parent for m, parent in chat.parents.items() if m not in gone}
        chat.said = {m: chat.said[m] for m in chat.parents}
        chat.running -= gone
        if chat.leaf in gone:
            chat.leaf = chat.newest_leaf(set(chat.parents) if above is None else chat.below(above))
        assert leaf == chat.leaf

    @rule(number=st.integers(0, 99))
    def show(self, number):
        if (found := self.a_message(number)) is None:
            return
        id, message = found
        self.chats[id].leaf = self.chats[id].newest_leaf(self.chats[id].below(message))
        self.store.change(self.user, id, leaf=message)

    @precondition(lambda self: self.chats)
    @rule(number=st.integers(0, 99), title=st.sampled_from(["", "盆景", "ab"]))
    def rename(self, number, title):
        id, chat = self.a_chat(number)
        self.store.change(self.user, id, title=title)
        chat.title = title

    @precondition(lambda self: len(self.chats) > 1)
    @rule(number=st.integers(0, 99))
    def delete(self, number):
        id, _ = self.a_chat(number)
        self.store.delete(self.user, id)
        del self.chats[id]

    @precondition(lambda self: len(self.chats) < 6)
    @rule(number=st.integers(0, 99))
    def fork(self, number):
        if (found := self.a_message(number, lambda chat, m: m not in chat.running)) is None:
            return
        id, message = found
        chat, path = self.chats[id], [message]
        while (parent := chat.parents[path[-1]]) is not None:
            path.append(parent)
        fork = self.store.get(self.user, self.store.fork(self.user, id, message).id)
        assert [one.content for one in fork.messages] == [chat.said[m] for m in path[::-1]]
        self._adopt(fork, chat.title)

    @precondition(lambda self: 0 < len(self.chats) < 6)
    @rule(number=st.integers(0, 99))
    def take_out_and_in(self, number):
        id, chat = self.a_chat(number)
        whole = self.store.get(self.user, id)
        file = transfer.write([whole], "json")
        (made,) = self.store.add_all(self.user, transfer.read(file.encode()))
        again = self.store.get(self.user, made.id)
        assert transfer.write([again], "json") == file
        self._adopt(again, chat.title)

    def _adopt(self, whole, title):
        chat = Chat(title, leaf=whole.leaf)
        for one in whole.messages:
            chat.parents[one.id], chat.said[one.id] = one.parent, one.content
        self.chats[whole.id] = chat

    @rule(query=QUERIES)
    def search(self, query):
        words = folded(query).split()
        expected = set()
        for id, chat in self.chats.items():
            # what is being written is found when it is done
            texts = [chat.title, *(said for m, said in chat.said.items() if m not in chat.running)]
            if all(any(word in folded(text) for text in texts) for word in words):
                expected.add(id)
        assert {one.id for one in self.store.page(self.user, query=query, limit=200)[0]} == expected
        assert self.store.page("someone else", query=query) == ([], False)

    @invariant()
    def what_is_stored_is_what_was_done(self):
        assert {one.id for one in self.store.page(self.user, limit=200)[0]} == set(self.chats)
        for id, chat in self.chats.items():
            whole = self.store.get(self.user, id)
            assert (whole.title, whole.leaf) == (chat.title, chat.leaf)
            assert {one.id: one.parent for one in whole.messages} == chat.parents
            assert {one.id: one.content for one in whole.messages} == chat.said
            seen = {None}
            for one in whole.messages:  # one path to the first message: every parent comes before
                assert one.parent in seen
                seen.add(one.id)
            assert (whole.leaf is None) == (not whole.messages)
            assert whole.leaf not in {one.parent for one in whole.messages} - {None}


def play(store, examples, steps):
    class Bound(Machine):
        pass

    Bound.store = store
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        ),
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_tree_stays_a_tree_and_search_finds_what_a_scan_finds(kind, request):
    """Some stories of up to 20 steps each; the same every time, for what they cost. The slow test tells more."""
    _play_on(kind, request, 6 if kind == "sqlite" else 3, 20)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_tree_stays_a_tree_in_long_stories(kind, request):
    _play_on(kind, request, 100, 50)


def _play_on(kind, request, examples, steps):
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "chats.db")
        store = Store.open(place if kind == "sqlite" else request.getfixturevalue("postgres_database"), serve=True)
        try:
            play(store, examples, steps)
            if kind == "sqlite":
                with store.database.writing() as connection:
                    assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
                    connection.exec_driver_sql("INSERT INTO grams (grams) VALUES ('integrity-check')")
        finally:
            store.close()


def test_search_reads_what_many_alphabets_write(store):
    """Case and width make no difference, nor does where words begin; quotes and stars are characters like others."""
    chat = store.create("mei")
    texts = [
        "Straße und ＨＡＵＳ",
        "盆景是一种艺术。",
        "λόγος ΛΟΓΟΣ",
        'a"b*c(d) AND NOT e',
        "नमस्ते",
        "x" * 3000 + "needle" + "y" * 3000,
    ]
    for text in texts:
        _, reply = store.ask("mei", chat.id, text)
        store.replies.finish(reply.id, content="ok")
    for query, found in (
        ("STRASSE haus", True),
        ("景是", True),
        ("术。", True),
        ("艺", True),
        ("λογος", True),
        ('"b*', True),
        ("(D) not", True),
        ("स्ते", True),
        ("needle", True),
        ("needles", False),
        ("景种", False),
        ("haus straßen", False),
    ):
        assert bool(store.page("mei", query=query)[0]) == found, query
    (one,), _ = store.page("mei", query="needle")
    assert "needle" in one.preview
    assert len(one.preview) < 200
    (one,), _ = store.page("mei", query="strasse")
    assert one.preview == "Straße und ＨＡＵＳ"
    assert replace(one, preview="") == replace(store.page("mei")[0][0], preview="")
