"""Tasks out of files of several layouts; what is missing is said with the record's place."""

import json
from itertools import pairwise

import pytest

from penjing.alignment.rewards import Boxed, Exact, Number, Task
from penjing.alignment.tasks import fitting, read_tasks
from penjing.errors import DataError
from tests.inference.test_chat import TOKENIZER

USER = {"role": "user", "content": "What is 2 + 2?"}


def write(tmp_path, *lines):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_reads_the_layouts(tmp_path):
    reply = {"role": "assistant", "content": "4"}
    tasks = read_tasks(
        write(
            tmp_path,
            {"messages": [USER], "ground_truth": "4", "dataset": "gsm8k"},
            {"prompt": "What is 2 + 2?", "answer": 4},
            {"messages": [USER, reply], "solution": "4"},
            {"prompt": [USER, reply, USER], "tests": ["assert True"]},
        )
    )
    assert [task.prompt for task in tasks] == [(USER,), (USER,), (USER,), (USER, reply, USER)]
    assert [task.answer for task in tasks] == ["4", "4", "4", ""]
    assert [task.tests for task in tasks] == [(), (), (), ("assert True",)]
    assert [task.origin[-6:] for task in tasks] == ["line 1", "line 2", "line 3", "line 4"]


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"prompt": "a"}, "nothing to judge an answer by; .* and there is: prompt"),
        ({"answer": "a"}, "no prompt"),
        ({"messages": [{"role": "user"}], "answer": "a"}, "no prompt"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "answer": "a"},
            "does not end with a message of the user",
        ),
        ({"prompt": "a", "tests": "assert True"}, "'tests' is not a list"),
        ([1], "a list, where a record"),
    ],
)
def test_a_record_that_cannot_be_asked_is_named(tmp_path, record, what):
    path = write(tmp_path, {"prompt": "a", "answer": "b"}, record)
    with pytest.raises(DataError, match=f"line 2: .*{what}"):
        read_tasks(path)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        read_tasks(path)


def test_prompts_that_leave_no_room_are_left_out():
    short, long = Task((USER,), "4"), Task(({"role": "user", "content": "x" * 200},), "4")
    assert fitting([short, long], TOKENIZER, context=100, room=20) == [short]
    with pytest.raises(DataError, match="none of the 1 prompts leaves room for an answer of 20 tokens"):
        fitting([long], TOKENIZER, context=100, room=20)


def test_real_tasks_are_judged(data):
    """open-instruct's sample: its own numbers and formulas are right, another record's are not."""
    tasks = read_tasks(data / "instruct" / "open_instruct_rlvr_sample.jsonl")
    assert len(tasks) == 100
    numbers = [task for task in tasks if task.answer.isdigit()]
    assert len(numbers) > 60
    for task, other in pairwise(numbers):
        assert Number()(task, f"So it is {task.answer}.") == 1
        assert Number()(task, f"So it is {other.answer}.") == (task.answer == other.answer)
    for task in tasks:
        assert Boxed(Exact())(task, f"so $\\boxed{{{task.answer}}}$") == 1
