"""Preferences: every layout becomes the same comparisons or judgements; every fault names its file and record."""

import json

import pytest

from penjing.data import preferences
from penjing.data.preferences import Comparison, Judged
from penjing.errors import DataError
from tests.data.test_conversations import write

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello"), ("assistant", "What?"))
)


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz"])
@pytest.mark.parametrize(
    "record",
    [
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"},
        {"conversations": [human("Hi")], "chosen": gpt("Hello"), "rejected": gpt("What?")},
        {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"instruction": "Hi", "input": "", "output": "?", "chosen": "Hello", "rejected": "What?"},
    ],
)  # fmt: skip
def test_every_layout_of_pairs_gives_the_same_comparison(tmp_path, name, record):
    first, second = preferences.comparisons(write(tmp_path / name, [record, record]))
    for found in (first, second):
        assert (found.prompt, found.chosen, found.rejected) == ((USER,), (GOOD,), (BAD,))
        assert found.margin is None
    assert second.origin == f"{tmp_path / name}, {'line' if 'jsonl' in name else 'record'} 2"


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, GOOD], "label": True},
        {"conversations": [human("Hi"), gpt("Hello")], "kto_tag": 1},
        {"prompt": "Hi", "completion": "Hello", "label": True},
        {"prompt": [USER], "completion": [GOOD], "label": True},
        {"instruction": "Hi", "input": "", "output": "Hello", "kto_tag": True},
    ],
)
def test_every_layout_of_judged_answers_gives_the_same_judgement(tmp_path, record):
    other = {name: False if name in ("label", "kto_tag") else value for name, value in record.items()}
    good, bad = preferences.judged(write(tmp_path / "a.jsonl", [record, other]))
    assert good == Judged((USER,), (GOOD,), True, f"{tmp_path / 'a.jsonl'}, line 1")
    assert (bad.answer, bad.desirable) == ((GOOD,), False)


def test_a_pair_is_two_judged_answers(tmp_path):
    path = write(tmp_path / "a.json", [{"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}])
    assert [(one.answer, one.desirable) for one in preferences.judged(path)] == [((GOOD,), True), ((BAD,), False)]


def test_a_prompt_is_all_that_both_conversations_begin_with(tmp_path):
    """Of HH: turns before the answers are the prompt's, the assistant's among them; the longer side keeps its turns."""
    chosen = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 二加三？\n\nAssistant: 五。"
    records = [
        {"chosen": chosen, "rejected": chosen.replace("五", "六")},
        {"chosen": chosen, "rejected": "\n\nHuman: Hi\n\nAssistant: Hello"},
        {"chosen": chosen, "rejected": chosen.replace("二加三", "一加四")},
        {"chosen": chosen, "rejected": chosen},
    ]
    first, shorter, other, same = preferences.comparisons(write(tmp_path / "a.jsonl", records))
    assert [message["content"] for message in first.prompt] == ["Hi", "Hello", "二加三？"]
    assert (first.chosen[0]["content"], first.rejected[0]["content"]) == ("五。", "六。")
    assert (len(shorter.prompt), len(shorter.chosen), len(shorter.rejected)) == (1, 3, 1)
    assert (len(other.prompt), len(other.chosen), len(other.rejected)) == (1, 3, 3)
    assert same.chosen == same.rejected == (first.chosen[0],)


def test_system_messages_history_and_tools_come_along(tmp_path):
    tools = [{"name": "add"}]
    record = {"system": "S", "tools": json.dumps(tools), "conversations": [human("Hi")], "chosen": gpt("a")}
    (found,) = preferences.comparisons(write(tmp_path / "a.json", [{**record, "rejected": gpt("b")}]))
    assert [message["role"] for message in found.prompt] == ["system", "user"]
    assert found.tools == found.judged[1].tools == tuple(tools)
    record = {"instruction": "Hi", "history": [["a", "b"]], "chosen": "c", "rejected": "d"}
    (found,) = preferences.comparisons(write(tmp_path / "b.json", [record]))
    assert [message["content"] for message in found.prompt] == ["a", "b", "Hi"]


@pytest.mark.parametrize(
    ("fields", "margin"),
    [
        ({"margin": 2}, 2.0),
        ({"score_chosen": 8.5, "score_rejected": 6}, 2.5),
        ({"chosen_rating": 4, "rejected_rating": 1, "margin": None}, 3.0),
        ({"score_chosen": 8.5}, None),
    ],
)
def test_margins_are_told_or_are_differences_of_scores(tmp_path, fields, margin):
    record = {"prompt": "Hi", "chosen": "Hello", "rejected": "What?", **fields}
    (found,) = preferences.comparisons(write(tmp_path / "a.json", [record]))
    assert found.margin == margin


def test_what_is_written_is_read_again(tmp_path):
    pairs = [
        Comparison((USER,), (GOOD,), (BAD,), 0.5, tools=({"name": "加"},)),
        Comparison(({"role": "system", "content": "S"}, USER), (GOOD,), (GOOD, USER, BAD)),
    ]
    preferences.write(tmp_path / "pairs.jsonl", pairs)
    found = list(preferences.comparisons(tmp_path / "pairs.jsonl"))
    assert [{**vars(one), "origin": ""} for one in found] == [vars(one) for one in pairs]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"chosen": "Hello", "rejected": "What?"}, "there is no prompt"),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": 3}, "'rejected' is of type int, not a text"),
        ({"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER]}, "rejected: ends with a message of the role"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "'prompt' is not a list of messages"),
        ({"chosen": [USER, GOOD], "rejected": [{"role": "user", "content": "Yo"}, BAD]}, "do not begin with the same"),
        ({"prompt": "Hi", "chosen": [{"content": "a"}], "rejected": "b"}, "message 1: no field 'role'"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": "much"}, "'margin' is 'much', not a number"),
        ({"messages": [USER, GOOD], "label": "good"}, "'label' is 'good'; it is true for a good answer"),
        ({"messages": [USER], "label": True}, "ends with a message of the role user"),
        ({"messages": [GOOD], "label": True}, "nobody asks anything"),
        ({"messages": [USER, GOOD]}, "neither a pair"),
        ([1], "a list, where a record"),
    ],
)  # fmt: skip
def test_faults_are_said_with_the_file_and_the_record(tmp_path, record, message):
    path = write(tmp_path / "a.jsonl", [record])
    with pytest.raises(DataError, match=message) as fault:
        list(preferences.read(path))
    assert str(fault.value).startswith(f"{path}, line 1")


def test_the_first_record_decides_the_layout(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "Hi", "chosen": "a", "rejected": "b"}, {"chosen": "a"}])
    with pytest.raises(DataError, match="line 2: no field 'prompt'; there is: chosen"):
        list(preferences.read(path))


def test_judged_answers_are_no_pairs_and_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"line 1: an answer that was judged alone.*KTO"):
        list(preferences.comparisons(write(tmp_path / "a.jsonl", [{"messages": [USER, GOOD], "label": True}])))
    with pytest.raises(DataError, match="there are no preferences in"):
        list(preferences.read(write(tmp_path / "b.jsonl", [])))


def test_reads_all_of_the_real_files(data):
    """Oracle: the counts that their README states; of each file the prompt ends with what the assistant answers."""
    for name, kind, count in (
        ("hh_harmless_base_test.jsonl.gz", Comparison, 2312),
        ("llamafactory_dpo_en_demo.json", Comparison, 300),
        ("llamafactory_dpo_zh_demo.json", Comparison, 300),
        ("llamafactory_kto_en_demo.json", Judged, 300),
        ("rasbt_instruction_preference.json", Comparison, 1100),
        ("open_instruct_preference_sample.jsonl", Comparison, 100),
    ):
        found = list(preferences.read(data / "preference" / name))
        assert len(found) == count
        assert {type(one) for one in found} == {kind}
        assert {one.prompt[-1]["role"] for one in found} <= {"user", "tool"}
