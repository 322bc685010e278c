"""What is told of a data set: every count against a set whose faults were put in by hand."""

import json

import pytest

from penjing.data.inspection import Lengths, inspect, odd, pieces
from penjing.data.instructions import Conversation
from penjing.data.languages import language_of
from penjing.errors import DataError


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def talk(*texts, roles=("user", "assistant")):
    return {"messages": [{"role": roles[i % len(roles)], "content": text} for i, text in enumerate(texts)]}


def call(name):
    return [{"type": "function", "function": {"name": name, "arguments": {}}}]


STORY = "One day a small frog went out to look for a large red ball that it had lost near the old mill by the lake. "


def test_conversations_are_counted(tmp_path, tokenizer):
    """Bytes are the tokens. Two copies (one in other punctuation), one near copy, one question asked twice."""
    near = STORY * 2 + "It found it."
    records = [
        talk("Hi there", "Hello."),
        talk("Hi, there!", "hello"),
        talk("Hi there", "What do you want?"),
        talk("你好，请问这是什么？", "这是一个盆景。"),
        talk("Tell me.", near),
        talk("Tell me.", near + " Then home."),
        talk("a", "", "b", "c" * 300),
        talk("<|im_end|>", "d", "e"),
        {"messages": [{"content": "no role"}]},
    ]
    found = inspect(write(tmp_path / "a.jsonl", records), tokenizer, context=100, sample=1)
    assert (found.kind, found.records, found.unit) == ("conversations", 8, "tokens")
    assert found.copies.count == 1
    assert found.copies.examples == [f"{tmp_path}/a.jsonl, line 2 = {tmp_path}/a.jsonl, line 1"]
    assert found.near_copies.count == 1
    assert found.same_question == 2
    assert found.languages["Chinese"] == 1
    assert found.turns == {1: 6, 2: 2}
    assert found.roles["user"].count == 10
    assert found.roles["user"].quantiles["100%"] == len("你好，请问这是什么？".encode())
    assert found.roles["assistant"].quantiles["0%"] == 0
    counts = {name: noted.count for name, noted in found.odd.items()}
    assert counts == {
        "an empty answer": 1,
        "ends without an answer": 1,
        "spells a special token (which it will not become)": 1,
        "not of the layout": 1,
    }
    assert "line 9, message 1: no field 'role'" in found.odd["not of the layout"].examples[0]
    rendering = found.rendering
    assert rendering["conversations"] + rendering["too_long"] == 8
    assert rendering["too_long"] == 3  # the two stories, and the answer of 300 with only an empty one before it
    assert "".join(piece.text for piece in found.sample if piece.learned) == "Hello.<|im_end|>"
    assert json.loads(json.dumps(found.to_dict()))["records"] == 8


def test_without_a_tokenizer_lengths_are_in_characters(tmp_path):
    found = inspect(write(tmp_path / "a.jsonl", [talk("三个字", "12")]))
    assert (found.unit, found.rendering, found.sample) == ("characters", None, [])
    assert found.roles["user"].mean == 3
    assert found.whole.quantiles["50%"] == 5


def test_pairs_are_looked_at_from_both_sides(tmp_path, tokenizer):
    records = [
        {"prompt": "Hi", "chosen": "Hello there.", "rejected": "No.", "margin": 2},
        {"prompt": "Hi", "chosen": "Same", "rejected": "Same"},
        {"prompt": "Hi", "chosen": "x", "rejected": ""},
        {"prompt": "Hi", "chosen": 5, "rejected": ""},
    ]
    found = inspect(write(tmp_path / "p.jsonl", records), tokenizer)
    assert (found.kind, found.records) == ("comparisons", 3)
    assert found.preference == {"equal pairs": 1, "chosen is longer": 2, "rejected is longer": 0, "with a margin": 1}
    assert found.roles["assistant"].count == 6
    assert found.odd["an empty answer"].examples == [f"{tmp_path}/p.jsonl, line 3, rejected"]
    assert found.odd["not of the layout"].count == 1
    judged = [{"prompt": "Hi", "completion": "Hello", "label": label} for label in (True, False, True)]
    found = inspect(write(tmp_path / "j.jsonl", judged), tokenizer)
    assert (found.kind, found.preference) == ("judged answers", {"desirable": 2, "undesirable": 1})


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        (talk("a", "b")["messages"], []),
        (talk("a", "b", roles=("system", "assistant"))["messages"], ["begins with the assistant"]),
        (talk("a", "b", "c", roles=("user", "user", "assistant"))["messages"], ["two messages of one role in a row"]),
        (talk("a", "b", roles=("user", "system"))["messages"], ["no answer", "ends without an answer",
          "a system message amid the conversation"]),
        ([*talk("a", "b")["messages"], {"role": "tool", "content": "4"}, {"role": "assistant", "content": "x"}],
         ["a tool's result that nobody called for"]),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": call("f")},
          {"role": "tool", "content": "4"}, {"role": "tool", "content": "5"}, {"role": "assistant", "content": "x"}],
         []),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": call("f")},
          {"role": "user", "content": "b"}, {"role": "assistant", "content": "x"}], ["a call without a result"]),
        (talk(" ", "<think>hm")["messages"], ["an empty question", "thoughts without an end"]),
    ],
)  # fmt: skip
def test_what_is_odd_is_named(messages, wanted):
    assert list(odd(tuple(messages))) == wanted


def test_pieces_join_to_the_conversation_and_special_tokens_stand_alone(tokenizer):
    talked = Conversation(({"role": "user", "content": "问"}, {"role": "assistant", "content": "答案"}))
    found = list(pieces(tokenizer.chat, talked))
    assert "".join(piece.text for piece in found) == tokenizer.chat.text(talked.messages)
    assert [(piece.text, piece.special) for piece in found if piece.learned] == [("答案", False), ("<|im_end|>", True)]


def test_lengths_by_hand():
    lengths = Lengths.of([0, 1, 2, 3, 4])
    assert (lengths.count, lengths.mean) == (5, 2)
    assert lengths.quantiles["25%"] == 1
    assert sum(lengths.histogram) == 5
    assert lengths.histogram[0] == lengths.histogram[-1] == 1


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(DataError, match="there are no records"):
        inspect(write(tmp_path / "a.jsonl", []))
    with pytest.raises(DataError, match=r"no record in .* can be read: .*line 1, message 1: no field 'role'"):
        inspect(write(tmp_path / "a.jsonl", [{"messages": [{"content": "x"}]}]))
    with pytest.raises(DataError, match="there is no file"):
        inspect(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="neither Alpaca"):
        inspect(write(tmp_path / "a.jsonl", [{"x": 1}]))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("It is what you see in the tray.", "English"),
        ("这是盆景。Penjing", "Chinese"),
        ("これは盆栽です", "Japanese"),
        ("이것은 무엇입니까", "Korean"),
        ("Это что такое", "Cyrillic"),
        ("Où est la forêt enchantée des rêves passés", "Latin letters"),
        ("12 + 30 = 42", "none"),
    ],
)
def test_languages_by_their_letters(text, language):
    assert language_of(text) == language


def test_real_data_is_told_apart(data, tokenizer):
    """English and Chinese files as their names say; both sides of the real pairs are looked at."""
    folder = data / "instruct" / "llamafactory"
    chinese, english = (inspect(folder / f"alpaca_{language}_demo.json", sample=0) for language in ("zh", "en"))
    assert chinese.languages["Chinese"] > 0.95 * chinese.records
    assert english.languages["English"] > 0.95 * english.records
    pairs = inspect(data / "preference" / "rasbt_instruction_preference.json", tokenizer, context=2000)
    assert pairs.records == 1100
    assert pairs.rendering["conversations"] == 2200
