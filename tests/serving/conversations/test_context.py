"""What the model is told when not all has room: whole turns, pinned ones kept, the rest left out or summarized."""

import asyncio

import pytest

from penjing.serving.backend import TooLongError
from penjing.serving.conversations.context import plan, prepare
from penjing.serving.conversations.records import Message, Settings
from tests.serving.conversations.fakes import Rules

# a word is a token and a message costs two more: a turn below takes 2 * (2 + 8) = 20 tokens


def branch(turns, pinned=(), words=8):
    path = []
    for number in range(turns):
        for role in ("user", "assistant"):
            text = " ".join(f"{role[0]}{number}" for _ in range(words))
            parent = path[-1].id if path else None
            path.append(Message(f"{role}-{number}", "c", parent, role, text, pinned=number in pinned))
    last = " ".join(["now"] * words)
    return [*path, Message("user-last", "c", path[-1].id if path else None, "user", last)]


def told(context, path, settings=Settings(), summaries=()):
    model = Rules(context=context)
    return plan(model.count, context, settings, path, dict(summaries))


def numbered(messages):
    """Which turns are told, by the numbers in the user's messages before the last."""
    return [
        int(message["content"].split()[0][1:])
        for message in messages
        if message["role"] == "user" and message["content"].startswith("u")
    ]


def test_all_is_told_where_all_has_room():
    found = told(1000, branch(10))
    assert (numbered(found.messages), found.dropped, found.tokens) == (list(range(10)), 0, 210)


@pytest.mark.parametrize("context", [40, 100, 150, 200, 281, 1000])
def test_as_many_of_the_newest_turns_as_fit_are_told_whole(context):
    """The oracle: drop the oldest turn until it fits."""
    path, model = branch(10), Rules(context=context)
    found = told(context, path)
    budget = context - context // 4
    kept = list(range(10))
    while kept and 10 + 20 * len(kept) > budget:
        kept.pop(0)
    assert numbered(found.messages) == kept
    assert found.tokens == model.count(found.messages) <= budget
    assert len(found.messages) == 2 * len(kept) + 1  # no answer without its question
    assert found.dropped == 10 - len(kept)


def test_pinned_turns_and_the_system_prompt_stay():
    settings = Settings(system="one two three")
    found = told(120, branch(10, pinned=(1, 4)), settings)  # 90 for the prompt: 5 + 10 + 2 * 20, and two more turns
    assert found.messages[0] == {"role": "system", "content": "one two three"}
    assert numbered(found.messages) == [1, 4, 9]
    assert found.pinned == 2


def test_the_room_for_the_answer_is_what_it_may_take():
    assert told(1000, branch(3), Settings(sampling={"max_new_tokens": 50})).room == 50
    assert told(1000, branch(3), Settings(sampling={"max_new_tokens": 5000})).room == 250


def test_a_last_message_that_cannot_fit_is_refused_and_says_what_to_do():
    path = branch(10, pinned=(0, 1, 2, 3))
    with pytest.raises(TooLongError, match="unpin some"):
        asyncio.run(prepare(Rules(context=60), Settings(), path, {}, lambda *_: None))
    with pytest.raises(TooLongError, match="make it shorter"):
        asyncio.run(prepare(Rules(context=12), Settings(), branch(0), {}, lambda *_: None))


def test_blocked_messages_and_empty_replies_are_not_told():
    path = branch(2)
    blocked = [
        Message("b1", "c", path[-2].id, "user", "bad words", status="blocked"),
        Message("b2", "c", "b1", "assistant", "no", status="blocked"),
        Message("e1", "c", "b2", "user", "u7 hello"),
        Message("e2", "c", "e1", "assistant", " ", status="interrupted"),
    ]
    found = told(1000, [*path[:-1], *blocked, path[-1]])
    assert [message["role"] for message in found.messages] == ["user", "assistant"] * 2 + ["user", "user"]
    assert "bad" not in str(found.messages)


def test_a_summary_is_made_once_and_rolled_on():
    """It reaches to the turn that it names; the next one begins with it, and no turn costs one of its own."""
    model, settings, kept = Rules(context=200), Settings(context="summary"), {}
    asked, sizes = [], []
    for turns in range(3, 20):
        path = branch(turns)
        before = len(model.asked)
        found = asyncio.run(prepare(model, settings, path, kept, kept.__setitem__))
        asked.append(len(model.asked) - before)
        sizes.append(found.tokens)
        if found.dropped:
            reached = numbered(found.messages)[0] - 1
            assert numbered(found.messages) == list(range(reached + 1, turns))
            assert f"assistant-{reached}" in kept
            assert kept[f"assistant-{reached}"] in found.messages[0]["content"]
            assert found.summarised
    assert max(sizes) <= 150
    assert asked[:4] == [0, 0, 0, 0]  # 3 to 6 turns and the last message fit into 150 tokens
    assert 2 <= sum(asked) <= 5  # of 17 turns
    rolled = [ask.messages[0]["content"] for ask in model.asked]
    assert "SUMMARY" not in rolled[0]
    assert all("SUMMARY" in request for request in rolled[1:])
    assert "u0" in rolled[0]
    assert not any("u0" in request for request in rolled[1:])


def test_what_is_summarized_in_parts_where_it_is_too_long_for_one():
    model, kept = Rules(context=300), {}
    path = branch(40)
    found = asyncio.run(prepare(model, Settings(context="summary"), path, kept, kept.__setitem__))
    assert len(model.asked) > 1
    assert all(model.count(ask.messages) <= 300 for ask in model.asked)
    said = " ".join(ask.messages[0]["content"] for ask in model.asked)
    dropped = set(range(40)) - set(numbered(found.messages))
    assert all(f"u{number} " in said for number in dropped)  # every turn left out was read once
    assert len(kept) == 1


def test_a_single_message_too_long_to_summarize_is_cut():
    model, kept = Rules(context=300), {}
    path = branch(3)
    path[0] = Message("user-0", "c", None, "user", "word " * 2000)
    asyncio.run(prepare(model, Settings(context="summary"), path, kept, kept.__setitem__))
    assert kept
    assert all(model.count(ask.messages) <= 300 for ask in model.asked)


def test_another_branch_uses_the_summary_of_what_both_share():
    path = branch(10)
    summaries = {"assistant-4": "SUMMARY of five turns"}
    found = told(200, path, Settings(context="summary"), summaries)
    assert numbered(found.messages) == [5, 6, 7, 8, 9]
    assert found.wanted is None
    other = [*path[:8], Message("x", "c", path[7].id, "user", "now")]  # parts before the summary
    assert not told(200, other, Settings(context="summary"), summaries).summarised


def test_chinese_is_summarized_in_chinese():
    model, kept = Rules(context=120), {}
    path = [
        Message(
            f"m{number}", "c", f"m{number - 1}" if number else None, ("user", "assistant")[number % 2], "你好 " * 12
        )
        for number in range(13)
    ]
    found = asyncio.run(prepare(model, Settings(context="summary"), path, kept, kept.__setitem__))
    assert model.asked
    assert all("摘要" in ask.messages[0]["content"] for ask in model.asked)
    assert found.tokens <= 90
