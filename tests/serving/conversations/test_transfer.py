"""Conversations as files: what goes out comes in as it was; what is a stranger's is checked before it is stored."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.data import conversations as data
from penjing.serving.conversations import file_checks, transfer
from penjing.serving.conversations.errors import ConversationError, TooLargeError
from penjing.serving.conversations.records import Conversation, Message, Settings

TEXT = st.text(
    alphabet=st.sampled_from("ab #盆\n\r\t\\`*_<!>-&{}\"'😀\u2028\u0301\x85"), min_size=1, max_size=30
) | st.sampled_from(
    [
        '<!-- penjing:message {"role": "user"} -->',
        "\\<!-- penjing:message {} -->",
        "## User\n\nHi",
        "\n\n",
        " lead and trail \n",
        "# A title",
        "<tool_call>{}</tool_call>",
        "-->",
    ]
)


@st.composite
def chats(draw):
    """A conversation: a tree with all that a message may have."""
    messages = []
    for number in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from([None, *messages]))
        role = "assistant" if parent is not None and parent.role == "user" else "user"
        more = {}
        if role == "assistant":
            more = {
                "feedback": draw(st.sampled_from([None, 1, -1])),
                "status": draw(st.sampled_from(["done", "interrupted"])),
                "model": draw(st.sampled_from([None, "tiny"])),
                "usage": draw(st.sampled_from([None, {"prompt_tokens": 3, "seconds": 0.5}])),
            }
        more |= {"note": draw(st.sampled_from(["", "n <b>"])), "pinned": draw(st.booleans())}
        above = None if parent is None else parent.id
        messages.append(Message(str(number), "c", above, role, draw(TEXT), created=float(number), **more))
    parents = {one.parent for one in messages}
    leaves = [one.id for one in messages if one.id not in parents]
    title = " ".join(draw(TEXT).split())
    how = Settings(
        "m", draw(st.sampled_from(["", "Be brief.\n--> ok"])), {"temperature": 0.5, "stop": ["a"]}, "summary"
    )
    return Conversation("c", title, how, draw(st.sampled_from(leaves)) if leaves else None, 1.5, 2.5, tuple(messages))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(chats())
def test_what_goes_out_comes_in_as_it_was(chat):
    (again,) = transfer.read(transfer.write([chat], "json").encode())
    numbered = {one.id: str(place) for place, one in enumerate(chat.messages, 1)}
    expected = tuple(
        replace(one, id=numbered[one.id], conversation="", parent=one.parent and numbered[one.parent])
        for one in chat.messages
    )
    assert again == replace(chat, id="", leaf=chat.leaf and numbered[chat.leaf], messages=expected)
    path = [one for one in expected if one.id in {numbered[found.id] for found in chat.path()}]
    # of Markdown the branch that is shown comes back with all that is known of it
    (again,) = transfer.read(transfer.write([chat], "markdown").encode())
    assert [replace(one, id="", parent=None) for one in again.messages] == [
        replace(one, id="", parent=None) for one in path
    ]
    assert (again.title, again.settings, again.created) == (chat.title, chat.settings, chat.created)
    # and of ShareGPT what was said
    (again,) = transfer.read(transfer.write([chat], "sharegpt").encode(), "sharegpt")
    assert [(one.role, one.content) for one in again.messages] == [(one.role, one.content) for one in path]
    assert again.settings.system == chat.settings.system


@settings(max_examples=40, deadline=None, derandomize=True)
@given(chats(), st.sampled_from(transfer.FORMATS))
def test_what_comes_in_goes_out_the_same_again(chat, form):
    file = transfer.write([chat], form)
    (again,) = transfer.read(file.encode())
    if form == "sharegpt" and not chat.title:
        again = replace(again, title="")  # it took one from its first message
    assert transfer.write([again], form) == file


def with_tools():
    turn = (
        {"role": "assistant", "content": 'So: <tool_call>{"name": "clock", "arguments": {"zone": "东"}}</tool_call>'},
        {"role": "tool", "content": "12:00"},
        {"role": "assistant", "content": "It is 12:00."},
    )
    call = {"id": "call-0", "name": "clock", "arguments": {"zone": "东"}, "result": "12:00"}
    question = Message("1", "", None, "user", "Time?", created=1.0)
    reply = Message("2", "", "1", "assistant", "So: It is 12:00.", created=1.0, tool_calls=(call,), turn=turn)
    return Conversation("", "Time?", Settings(), "2", 1.0, 1.0, (question, reply))


@pytest.mark.parametrize("form", transfer.FORMATS)
def test_replies_with_tools_come_in_as_one_message_again(form):
    chat = with_tools()
    (again,) = transfer.read(transfer.write([chat], form).encode())
    fixed = {"created": 1.0}
    assert [replace(one, **fixed) for one in again.messages] == list(chat.messages)


def test_the_projects_own_reader_of_datasets_reads_sharegpt(tmp_path):
    file = tmp_path / "chat.json"
    file.write_text(transfer.write([replace(with_tools(), settings=Settings(system="s"))], "sharegpt"))
    (read,) = data.read(file)
    assert [message["role"] for message in read.messages] == ["system", "user", "assistant", "tool", "assistant"]


def test_calls_in_openais_and_sharegpts_layout_are_read():
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    openai = {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "Add."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "assistant", "content": "Two."},
        ]
    }
    (chat,) = transfer.read(json.dumps(openai).encode())
    assert chat.settings.system == "s"
    assert [one.content for one in chat.messages] == ["Add.", "Two."]
    assert chat.messages[1].tool_calls == ({"id": "c1", "name": "add", "arguments": {"a": 1}, "result": "2"},)
    (again,) = transfer.read(transfer.write([chat], "sharegpt").encode())
    assert [one.content for one in again.messages] == ["Add.", "Two."]
    assert again.messages[1].tool_calls[0]["result"] == "2"


def test_lines_and_lists_are_read_and_a_byte_order_mark_is_no_fault():
    one = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}
    lines = "\n".join(json.dumps(one) for _ in range(3))
    assert len(transfer.read(lines.encode())) == 3
    assert len(transfer.read(json.dumps([one, one]).encode())) == 2
    (marked,) = transfer.read(json.dumps(one).encode("utf-8-sig"))
    assert marked.title == "Hi"


def test_markdown_that_an_editor_gave_other_line_ends_is_read():
    chat = with_tools()
    (again,) = transfer.read(transfer.write([chat], "markdown").replace("\n", "\r\n").encode())
    assert [one.content for one in again.messages] == [one.content for one in chat.messages]


def own(**more):
    message = {"id": 1, "parent": None, "role": "user", "content": "Hi"}
    chat = {"title": "t", "messages": [message | more], "leaf": 1}
    return json.dumps({"format": "penjing.conversations", "version": 1, "conversations": [chat]}).encode()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "no conversations"),
        (b"3", "an object"),
        (b'{"a": 1}', "it has: a"),
        (b"[" * 100_000, "nested"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
        (b'{"messages": [{"role": "king", "content": "x"}]}', "king"),
        (b'{"messages": [{"role": "tool", "content": "x"}]}', "without a call"),
        (b'{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}', "in the middle"),
        (own(role="system"), "role"),
        (own(content=None), "content"),
        (own(content="a\0"), "NUL"),
        (own(parent=7), "parent 7"),
        (own(parent=1), "parent 1"),
        (own(status="running"), "status"),
        (own(feedback=1), "feedback"),
        (own(role="assistant", feedback=True), "feedback"),
        (own(created="now"), "time"),
        (own(created=float("inf")), "Infinity"),
        (own(pinned=1), "pinned"),
        (own(turn=[{"role": "x"}]), "turn|role"),
        (own(turn=3), "turn"),
        (own(tool_calls=[{}]), "tool_calls"),
        (own(notice={"action": "x"}), "notice"),
        (own(id=[1]), "no id"),
        (own().replace(b'"leaf": 1', b'"leaf": 2'), "leaf 2"),
        (own().replace(b'"version": 1', b'"version": 2'), "version 2"),
        (own().replace(b'"title": "t"', b'"title": "t", "settings": {"x": 1}'), "setting 'x'"),
        (b"<!-- penjing:message {} -->\nHi", "begins with no such comment"),
        (b'<!-- penjing:conversation {"version": 9} -->', "version 9"),
        (b"<!-- penjing:conversation {x} -->", "line 1: not valid JSON"),
    ],
)
def test_what_is_no_conversation_is_refused_and_the_message_says_why(file, words):
    with pytest.raises(ConversationError, match=words):
        transfer.read(file)


def test_sizes_are_bounded(monkeypatch):
    with pytest.raises(TooLargeError, match="262,144"):
        transfer.read(own(content="x" * 262_145))
    monkeypatch.setattr(transfer, "LONGEST_FILE", 10)
    with pytest.raises(TooLargeError, match="bytes"):
        transfer.read(own())
    monkeypatch.undo()
    monkeypatch.setattr(file_checks, "MOST_CONVERSATIONS", 2)
    one = {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(TooLargeError, match="3 conversations"):
        transfer.read(json.dumps([one] * 3).encode())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["messages", "conversations", "role", "content", "from", "value", "tool_calls", "format"]
                ),
                inner | st.sampled_from(["user", "assistant", "penjing.conversations", "gpt"]),
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_is_sent_is_read_or_refused(file):
    """Nothing but our own errors: a stranger's file never becomes a defect of the server."""
    with suppress(ConversationError):
        transfer.read(file)
