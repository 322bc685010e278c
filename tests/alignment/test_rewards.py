"""Verifiable rewards: what is right, what is nearly right, and what a model may write to get a reward for nothing."""

import pytest

from penjing.alignment.rewards import (
    LONGEST_TEXT,
    Boxed,
    Exact,
    Matches,
    Number,
    Overlong,
    PassesTests,
    Schema,
    Shaped,
    Tagged,
    Task,
    Weighted,
    world,
)
from penjing.alignment.rollout_loader import each
from penjing.alignment.rollouts import Rollout
from penjing.data.world import dialogue, skills
from penjing.errors import ConfigError, GenerationError
from penjing.tokenizer.chat import ChatTokens


def expecting(answer):
    return Task((), answer)


def test_the_world_s_own_answers_are_right_and_others_are_not():
    for skill in skills():
        item = dialogue(3, language="en", skill=skill.name)
        assert world(item, item.answer) == 1
        assert world(item, f"{item.answer} or not") == 0


@pytest.mark.parametrize(
    ("expected", "text", "reward"),
    [
        ("1776", "37 times 48 is 1,776.", 1),
        ("1776", "It is 1776.0", 1),
        ("1776", "1776 or 1777", 0),
        ("1776", "1,77 6", 0),
        ("1776", "", 0),
        ("1776", "no number", 0),
        ("-3", "the answer is -3", 1),
        ("-3", "the answer is −3.", 1),
        ("3", "5-3", 1),
        ("0.5", "so 1/2", 1),
        ("0.5", "so 1 / 0", 0),
        ("18", "#### 18", 1),
        ("18", "$18.00", 1),
        ("18", "x18", 0),
        ("18", "version 1.18.3", 0),
        ("0.1", "1e-1", 1),
        ("2", "答案是2。", 1),
        ("1", "1" * 500, 0),
        ("1", "9e999", 0),
    ],
)
def test_the_last_number_is_the_answer(expected, text, reward):
    assert Number()(expecting(expected), text) == reward


def test_a_number_may_be_off_by_a_tolerance():
    assert Number(0.01)(expecting("3.14159"), "about 3.14") == 1
    assert Number(0.0001)(expecting("3.14159"), "about 3.14") == 0


def test_a_pattern_must_match_the_whole_text():
    reward = Matches(r"[A-Z]\d+")
    assert [reward(None, text) for text in ("A12", "A12 ", "is A12", "")] == [1, 0, 0, 0]
    with pytest.raises(ConfigError, match="no regular expression"):
        Matches("(")


def test_a_text_that_keeps_a_pattern_busy_is_wrong_after_a_moment():
    """Catastrophic backtracking: 2^5000 ways to try."""
    assert Matches(r"(a|a|b?a)*c")(None, "a" * 5000) == 0


def test_a_text_too_long_to_be_judged_is_wrong():
    assert Matches("a*")(None, "a" * LONGEST_TEXT) == 1
    assert Matches("a*")(None, "a" * (LONGEST_TEXT + 1)) == 0


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ('{"name": "Ann", "age": 3}', 1),
        ('{"age": 3.0, "name": "Ann"}', 1),
        ('\n {"name": "盆", "age": 0}', 1),
        ('{"name": "Ann"}', 0.25),
        ('{"name": "Ann", "age": -1}', 0.25),
        ('{"name": "Ann", "age": 3, "more": 1}', 0.25),
        ('{"name": "Ann", "age": NaN}', 0),
        ('{"name": "Ann", "age": 1e999}', 0),
        ('{"name": "Ann", "age": 3', 0),
        ('{"name": "Ann", "name": "Bo", "age": 3}', 0),
        ('Here: {"name": "Ann", "age": 3}', 0),
        ("[" * 100_000, 0),
        ("1" * 10_000, 0),
    ],
)
def test_json_must_satisfy_the_schema(text, reward):
    assert Schema(PERSON, valid=0.25)(None, text) == reward


def test_judges_json_as_jsonschema_does():
    """An outside oracle, on values that are near the schema's borders."""
    jsonschema = pytest.importorskip("jsonschema")
    import itertools
    import json

    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b", 1]},
            "list": {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "maxItems": 2},
            "text": {"anyOf": [{"type": "string", "pattern": "^x+$"}, {"type": "null"}]},
        },
        "required": ["kind"],
    }
    validator = jsonschema.Draft202012Validator(schema)
    kinds, lists = ["a", 1, True, "c"], [[], [0], [1], [1, 2], [1, 2, 3], ["1"]]
    texts = ["x", "y", "", None, 0, "xx"]
    values = [
        {"kind": kind, "list": numbers, "text": text} for kind, numbers, text in itertools.product(kinds, lists, texts)
    ]
    values += [{"list": []}, {"kind": "a"}, [], "a", 1]
    right = [validator.is_valid(value) for value in values]
    assert [Schema(schema)(None, json.dumps(value)) for value in values] == right
    assert 10 < sum(right) < len(values) - 10


def test_refuses_a_schema_that_it_does_not_know():
    with pytest.raises(GenerationError):
        Schema({"type": "objekt"})


CODE = "Here it is:\n```python\ndef double(x):\n    return 2 * x\n```\nDone."
DOUBLE = Task((), tests=("assert double(2) == 4", "assert double(-1) == -2"))


def test_code_must_pass_the_tests():
    assert PassesTests()(DOUBLE, CODE) == 1
    assert PassesTests()(DOUBLE, "def double(x):\n    return 2 * x") == 1
    half = CODE.replace("2 * x", "4")
    assert PassesTests()(DOUBLE, half) == 0
    assert PassesTests(partial=True)(DOUBLE, half) == 0.5
    assert PassesTests()(DOUBLE, "I cannot.") == 0
    assert PassesTests()(Task(()), CODE) == 0


def test_the_last_of_several_pieces_of_code_counts():
    assert PassesTests()(DOUBLE, f"```python\nraise SystemExit\n```\nNo, rather:\n{CODE}") == 1


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("so <answer> 4 </answer>", 1),
        ("<answer>4</answer> <answer>5</answer>", 0),
        ("<answer>4", 0),
        ("4</answer>", 0),
        ("<answer>5</answer> 4", 0),
        ("</answer><answer>4</answer>", 0),
        ("<answer><answer>4</answer>", 0),
    ],
)
def test_what_stands_between_tags_is_judged(text, reward):
    assert Tagged("answer", Number())(expecting("4"), text) == reward


@pytest.mark.parametrize(
    ("expected", "text", "reward"),
    [
        (r"\frac{1}{3}", r"so $\boxed{\dfrac{1}{3}}$.", 1),
        (r"\frac{1}{3}", r"\boxed{\frac{1}{2}} no, \boxed{ \frac{1} {3} }", 1),
        (r"\frac{1}{3}", r"\boxed{\frac{1}{3}} no, \boxed{\frac{1}{2}}", 0),
        ("2x-8", r"\boxed{2x - 8}", 1),
        ("2x-8", r"\boxed{2x - 8", 0),
        ("2x-8", "2x-8", 0),
        ("(1,2)", r"\boxed{\left(1,2\right)}", 1),
    ],
)
def test_what_stands_in_the_last_box_is_judged(expected, text, reward):
    assert Boxed(Exact())(expecting(expected), text) == reward


def test_the_whole_text_is_the_expected_one():
    assert [Exact()(expecting("2x-8"), text) for text in ("2x - 8.", "$2x-8$", "2x-9", "it is 2x-8")] == [1, 1, 0, 0]


def test_rewards_are_added_with_weights():
    reward = Weighted(((Number(), 1.0), (Matches("(?s).*[.]"), 0.1), (Matches("(?s).*因为.*"), -0.5)))
    assert reward(expecting("4"), "It is 4.") == pytest.approx(1.1)
    assert reward(expecting("4"), "因为 4") == pytest.approx(0.5)


def test_the_last_tokens_before_the_limit_cost():
    """DAPO's equation 13 with a limit of 20 and a buffer of 5."""
    overlong = Overlong(limit=20, buffer=5)
    assert [overlong(length) for length in (1, 15, 16, 18, 20, 21, 99)] == [0, 0, -0.2, -0.6, -1, -1, -1]
    with pytest.raises(ConfigError, match="buffer is 0"):
        Overlong(20, 0)


def test_a_judge_may_look_at_lengths():
    def answer(text, length):
        tokens = ChatTokens([1] * length, [True] * length)
        return Rollout(tokens, (0.0,) * length, ({"role": "assistant", "content": text},), False)

    judge = Shaped(each(Number()), Overlong(20, 5), weight=0.5)
    answers = [answer("4", 3), answer("4", 18), answer("5", 30)]
    assert judge([expecting("4")] * 3, answers) == pytest.approx([1, 0.7, -0.5])
