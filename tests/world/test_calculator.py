"""The calculator: right, bounded, and never evaluating what it is given."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.data.world.calculator import calculator, call, tool_result

numbers = st.integers(0, 10**5)


@given(numbers, numbers, numbers, st.sampled_from("+-*"), st.sampled_from("+-*"))
def test_equals_python_on_whole_numbers(a, b, c, first, second):
    """Oracle: Python's own arithmetic, exact; products stay below its bound of 10^15."""
    assert calculator(f"{a} {first} {b} {second} {c}") == str(eval(f"{a}{first}{b}{second}{c}"))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("37*48", "1776"), ("(1+2)*3", "9"), ("-(2-5)", "3"), ("7/2", "3.5"), ("1/3", "0.333333"), ("2×3÷4", "1.5"),
        ("0.1+0.2", "0.3"), ("10/5", "2"), ("100000*100000", "10000000000"), ("0*-1", "0"),
    ],
)  # fmt: skip
def test_known_values(expression, value):
    assert calculator(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9", "1/0", "", "2+", "(1", "1)", "1..2", "__import__('os')", "a", "1e9", "9" * 400, "(" * 300,
        "-" * 150 + "1",
        "999999999999*999999999999", "1,5", "٣+٤", "1 if 1 else 2",
    ],
)  # fmt: skip
def test_refuses_what_is_no_small_sum(expression):
    assert calculator(expression).startswith("error: ")


@given(st.text(max_size=300))
def test_any_text_gives_a_short_answer(text):
    assert len(calculator(text)) < 300
    assert tool_result("<tool_call>" + text) is not None


def test_calls_go_there_and_back():
    assert tool_result(call("12*12")) == "144"
    assert json.loads(call("1+1").removeprefix("<tool_call>").removesuffix("</tool_call>"))["name"] == "calculator"
    assert tool_result("It is 4.") is None


@pytest.mark.parametrize(
    "reply",
    ["<tool_call>", "<tool_call>{}</tool_call>",
     '<tool_call>{"name": "shell", "arguments": {"expression": "1"}}</tool_call>',
     '<tool_call>{"name": "calculator", "arguments": {"expression": 3}}</tool_call>', "<tool_call>[1]</tool_call>"],
)  # fmt: skip
def test_malformed_calls_are_answered_with_an_error(reply):
    result = tool_result(reply)
    assert result is not None
    assert result.startswith("error: ")
