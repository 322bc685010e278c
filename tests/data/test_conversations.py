"""Conversations: every layout becomes the same messages; every fault is said with its file and its line or record."""

import gzip
import json

import pytest

from penjing.data.conversations import Conversation, read
from penjing.errors import DataError

HELLO = [("user", "Hi"), ("assistant", "Hello")]


def write(path, records):
    """Records as JSON lines or as a JSON list, by the name of the file."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    text = "\n".join(lines) if ".jsonl" in path.name else "[" + ",\n".join(lines) + "]"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def messages(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation.messages]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz"])
@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"instruction": "Hi", "input": "", "output": "Hello"}, HELLO),
        ({"instruction": "Hi", "output": "Hello"}, HELLO),
        ({"instruction": "Add.", "input": "2, 3", "output": "5"}, [("user", "Add.\n\n2, 3"), ("assistant", "5")]),
        (
            {"instruction": "三?", "input": None, "output": "3", "system": "S", "history": [["Hi", "Hello"]]},
            [("system", "S"), *HELLO, ("user", "三?"), ("assistant", "3")],
        ),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, HELLO),
        (
            {"system": "S", "conversations": [{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            [("system", "S"), *HELLO],
        ),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, HELLO),
        (
            {"messages": [{"role": "developer", "content": [{"type": "text", "text": "S"}]}]},
            [("system", "S")],
        ),
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_messages(tmp_path, name, record, expected):
    first, second = read(write(tmp_path / name, [record, record]))
    assert messages(first) == messages(second) == expected
    assert second.origin == f"{tmp_path / name}, {'line' if 'jsonl' in name else 'record'} 2"


def test_calls_of_tools_are_in_openais_layout(tmp_path):
    """ShareGPT's function_call and OpenAI's tool_calls, arguments as values or as JSON text, give the same calls."""
    arguments = {"a": 2, "城": "京"}
    tools = [{"name": "add", "description": "adds"}]
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "2+3?"},
            {"from": "function_call", "value": json.dumps({"name": "add", "arguments": arguments})},
            {"from": "observation", "value": "5"},
            {"from": "gpt", "value": "Five."},
        ],
        "tools": json.dumps(tools),
    }
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": json.dumps(arguments)}}]
    openai = {
        "messages": [
            {"role": "user", "content": "2+3?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "5", "tool_call_id": "1"},
            {"role": "assistant", "content": "Five."},
        ],
        "tools": tools,
    }
    (one,) = read(write(tmp_path / "a.json", [sharegpt]))
    (two,) = read(write(tmp_path / "b.json", [openai]))
    said = [("user", "2+3?"), ("assistant", ""), ("tool", "5"), ("assistant", "Five.")]
    assert messages(one) == messages(two) == said
    function = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    assert one.messages[1]["tool_calls"] == [function]
    assert two.messages[1]["tool_calls"] == [{"id": "1", **function}]
    assert two.messages[2]["tool_call_id"] == "1"
    assert one.tools == two.tools == tuple(tools)
    openai["messages"][1]["content"] = "Let me see."
    openai["messages"][1]["tool_calls"] = calls * 2
    (three,) = read(write(tmp_path / "b.json", [openai]))
    assert messages(three)[1] == ("assistant", "Let me see.")
    assert len(three.messages[1]["tool_calls"]) == 2


def test_thoughts_and_weights_of_messages_are_read(tmp_path):
    record = {
        "messages": [
            {"role": "user", "content": "2+2?", "weight": 1},
            {"role": "assistant", "content": "5", "weight": 0},
            {"role": "user", "content": "No."},
            {"role": "assistant", "content": "4", "reasoning_content": "Two and two."},
        ]
    }
    (found,) = read(write(tmp_path / "a.jsonl", [record]))
    assert messages(found)[3] == ("assistant", "<think>\nTwo and two.\n</think>\n\n4")
    assert [message.get("weight") for message in found.messages] == [1, 0, None, None]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "Hi", "answer": "Hello"}, r"neither Alpaca .* nor ShareGPT .* this record has: prompt, answer"),
        ("Hi", r"a str, where a record \{\.\.\.\} is expected"),
        ({"messages": []}, "'messages' is not a list of messages"),
        ({"messages": ["Hi"]}, r"message 1: a str, where \{role, content\}"),
        ({"messages": [{"role": "user"}]}, "message 1: no field 'content'; there is: role"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1: 'content' is of type NoneType"),
        ({"messages": [{"content": "Hi"}]}, "message 1: no field 'role'; there is: content"),
        ({"messages": [{"role": "assistent", "content": ""}]}, "unknown role 'assistent'; did you mean 'assistant'"),
        ({"messages": [{"role": ["user"], "content": ""}]}, r"unknown role '\['user'\]'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "'content' has parts that are not text"),
        ({"messages": [{"role": "user", "content": 5}]}, "'content' is of type int, not a text"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "half a character"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, r"is not \{name, arguments\}"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}]},
            "the arguments of the call of f are not an object",
        ),
        ({"messages": [{"role": "user", "content": "", "weight": 0.5}]}, "'weight' is 0.5; it is 0"),
        ({"conversations": [{"from": "human", "text": "Hi"}]}, "message 1: no field 'value'; there is: from, text"),
        ({"conversations": [{"from": "robot", "value": ""}]}, "message 1: unknown from 'robot'"),
        ({"conversations": [{"from": "function_call", "value": "add(2)"}]}, "the call of a tool is not valid JSON"),
        ({"conversations": [{"from": "function_call"}]}, "message 1: no field 'value'"),
        ({"conversations": [{"from": "gpt", "value": ""}], "tools": "x"}, "'tools' is not valid JSON"),
        ({"conversations": [{"from": "gpt", "value": ""}], "tools": [5]}, "'tools' is not a list of descriptions"),
        ({"instruction": 1, "output": ""}, "'instruction' is of type int"),
        ({"instruction": "", "output": None}, "'output' is of type NoneType"),
        ({"instruction": "", "output": "", "history": ["Hi"]}, "'history' is not a list of .user, assistant. pairs"),
        ({"instruction": "", "output": "", "input": 3}, "'input' is of type int"),
    ],
)
def test_what_is_no_conversation_is_said_with_its_place(tmp_path, record, message):
    good = {"messages": [{"role": "user", "content": "Hi"}]}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(record))
    with pytest.raises(DataError, match=rf"a\.jsonl, line 1.*({message})"):
        list(read(file))
    if isinstance(record, dict) and "messages" in record:
        file.write_text(json.dumps(good) + "\n\n" + json.dumps(record))
        with pytest.raises(DataError, match=r"a\.jsonl, line 3, |a\.jsonl, line 3: "):
            list(read(file))


def test_a_record_of_another_layout_than_the_first_is_refused(tmp_path):
    file = write(tmp_path / "a.json", [{"instruction": "Hi", "output": "Hello"}, {"messages": []}])
    with pytest.raises(DataError, match=r"a\.json, record 2: no field 'instruction'; there is: messages"):
        list(read(file))


def test_missing_and_empty_files_are_said_and_folders_are_read(tmp_path):
    with pytest.raises(DataError, match="there is no file or folder"):
        list(read(tmp_path / "none.json"))
    with pytest.raises(DataError, match="there is no file to read in"):
        list(read(tmp_path))
    (tmp_path / "a.txt").write_text("Hi")
    with pytest.raises(DataError, match=r"a\.txt: not a file of records; known: \.jsonl"):
        list(read(tmp_path / "a.txt"))
    write(tmp_path / "b.json", [{"instruction": "Hi", "output": "Hello"}])
    write(tmp_path / "c.jsonl", [{"messages": [{"role": "user", "content": "Hi"}]}])
    assert [messages(conversation) for conversation in read(tmp_path)] == [HELLO, HELLO[:1]]


@pytest.mark.parametrize(
    ("file", "count", "roles"),
    [
        ("alpaca_5000.json", 5000, {"user", "assistant"}),
        ("llamafactory/glaive_toolcall_en_demo.json", 300, {"user", "assistant", "tool"}),
        ("llamafactory/glaive_toolcall_zh_demo.json", 300, {"user", "assistant", "tool"}),
        ("llamafactory/oaast_sft_zh.json", 766, {"user", "assistant"}),
        ("open_instruct_sft_sample.jsonl", 100, {"user", "assistant"}),
        ("open_instruct_rlvr_sample.jsonl", 100, {"user"}),
        ("alpaca_zh_part_00.json", 10021, {"user", "assistant"}),
    ],
)
def test_real_files_are_read(data, file, count, roles):
    """Counts as the data's README has them."""
    found = list(read(data / "instruct" / file))
    assert len(found) == count
    assert {message["role"] for conversation in found for message in conversation.messages} == roles


def test_a_real_file_of_another_layout_is_refused(data):
    with pytest.raises(DataError, match=r"self_instruct_seed_tasks\.jsonl, line 1: neither Alpaca"):
        list(read(data / "instruct" / "self_instruct_seed_tasks.jsonl"))
