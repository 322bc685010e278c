"""A judge and a constitution: by models that answer by rule, so that every preference can be foretold."""

import json
import re

import pytest

from penjing.alignment.asking import Asker
from penjing.alignment.constitution import Constitution, read_principles
from penjing.alignment.feedback import judged_answers, prompts_of, revised_answers
from penjing.alignment.judge import Judge, vote_in
from penjing.data import conversations, preferences
from penjing.data.conversations import Conversation
from penjing.errors import ConfigError, DataError
from penjing.inference.sampling import Sampling
from tests.alignment.rules import RuleModel

GREEDY = Sampling(temperature=0, max_new_tokens=50)
DRAWN = Sampling(temperature=1, max_new_tokens=50)
PROMPT = ({"role": "user", "content": "What is a tray?"},)


def shown(question):
    """The two answers that a judge is shown."""
    pattern = r"\[(?:Answer |回答)A\]\n(.*?)\n\n\[(?:Answer |回答)B\]\n(.*?)\n\n"
    return re.search(pattern, question, re.DOTALL).groups()


def by_length(question, _):
    one, two = shown(question)
    return "Both say something.\n" + ("tie" if len(one) == len(two) else "A" if len(one) > len(two) else "B")


def judge_of(rule, **more):
    return Judge(Asker(RuleModel(rule), GREEDY), **more)


@pytest.mark.parametrize(
    ("rule", "one", "two", "winner", "name"),
    [
        (by_length, "a long answer", "short", 0, "decided"),
        (by_length, "short", "a long answer", 1, "decided"),
        (by_length, "same", "size", None, "tie"),
        (lambda *_: "A", "a long answer", "short", None, "by place"),
        (lambda *_: "Answer: B.", "a long answer", "short", None, "by place"),
        (lambda question, _: "A" if shown(question)[0] == "x" else "tie", "x", "y", None, "tie"),
        (lambda question, _: "A" if shown(question)[0] == "x" else "I cannot say.", "x", "y", None, "unclear"),
        (lambda question, _: ("A", "length"), "x", "y", None, "unclear"),
    ],
)
def test_only_what_is_better_in_both_orders_is_preferred(rule, one, two, winner, name):
    verdict = judge_of(rule).compare(PROMPT, one, two, "test")
    assert (verdict.winner, verdict.name) == (winner, name)


def test_a_judges_liking_for_a_place_makes_ties_and_not_preferences():
    """A judge that says A in 8 of 10 cases whatever the answers, else the longer one: only its true votes count."""

    def biased(question, _):
        one, two = shown(question)
        return "A" if (len(one) + len(two)) % 10 < 8 else by_length(question, _)

    judge = judge_of(biased)
    answers = [("x" * number, "y" * (number + 1 + number % 3)) for number in range(1, 40)]
    totals = {}
    wins = 0
    for number, pair in enumerate(answers):
        found, counts = judge.preferences(PROMPT, pair, str(number))
        wins += sum(one.chosen[0]["content"] == pair[1] for one in found)
        assert len(found) == counts["decided"]
        totals = {name: totals.get(name, 0) + count for name, count in counts.items()}
    assert wins == totals["decided"] > 0
    assert totals["by place"] == sum((len(one) + len(two)) % 10 < 8 for one, two in answers)
    assert totals["votes for A"] == 2 * totals["by place"] + totals["decided"]
    assert totals["pairs"] == totals["decided"] + totals["by place"] == 39


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        ("A", "A"),
        ("b.", "B"),
        ("**B**", "B"),
        ("[[A]]", "A"),
        ("Because of that, I choose:\n\nVerdict: B\n", "B"),
        ("The better answer is A", "A"),
        ("A is better.", "A"),
        ("Answer B is better", "B"),
        ("Tie", "tie"),
        ("我认为回答A更清楚。\n答案：A", "A"),
        ("平", "tie"),
        ("A or B", None),
        ("A good answer", None),
        ("B\nThat is all I have to say.", None),
        ("", None),
        ("Both", None),
    ],
)
def test_verdicts_are_read_from_the_last_line_or_not_at_all(text, vote):
    assert vote_in(text) == vote


def test_judges_are_shown_principles_and_asked_in_the_conversations_language():
    judge = judge_of(by_length, principles=("Be brief.", "Be kind."))
    judge.compare(PROMPT, "x", "y", "test")
    assert "by these principles: Be brief.; Be kind.?" in judge.ask.model.asked[0]
    assert "[user]\nWhat is a tray?" in judge.ask.model.asked[0]
    chinese = ({"role": "user", "content": "什么是盆景？"},)
    assert judge.compare(chinese, "盆里的风景", "树", "test").winner == 0
    assert "哪个更好（依据这些原则" in judge.ask.model.asked[2]


TALKS = [
    Conversation(
        ({"role": "user", "content": f"Say {number}."}, {"role": "assistant", "content": "old"}), f"line {number}"
    )
    for number in range(4)
] + [Conversation(({"role": "system", "content": "s"},), "line 4")]


def test_prompts_end_with_the_users_last_message():
    assert [name for name, _ in prompts_of(TALKS)] == [f"line {number}" for number in range(4)]
    assert all(prompt[-1]["role"] == "user" for _, prompt in prompts_of(TALKS))


def answerer(question, sampling):
    """As many x as the seed says, 1 to 3; so answers are alike now and then."""
    return "x" * (1 + sampling.seed % 3)


def test_judged_answers_become_preferences_that_are_read(tmp_path):
    out = tmp_path / "pairs.jsonl"
    ask, judge = Asker(RuleModel(answerer, "policy"), DRAWN), judge_of(by_length)
    report = judged_answers(prompts_of(TALKS), ask, judge, out, answers=3)
    pairs = list(preferences.comparisons(out))
    assert len(pairs) == report.records == report.counts["decided"] > 0
    assert all(len(pair.chosen[0]["content"]) > len(pair.rejected[0]["content"]) for pair in pairs)
    assert all(pair.prompt[0]["content"].startswith("Say ") for pair in pairs)
    provenance = json.loads(out.read_text().splitlines()[0])["provenance"]
    assert provenance["judge"]["model"] == "rule"
    assert provenance["answers"]["model"] == "policy"
    assert provenance["source"].startswith("line ")
    asked = len(ask.model.asked), len(judge.ask.model.asked)
    again = judged_answers(prompts_of(TALKS), ask, judge, out, answers=3)
    assert again.to_dict() == report.to_dict()
    assert (len(ask.model.asked), len(judge.ask.model.asked)) == asked
    with pytest.raises(ConfigError, match="begun in another way"):
        judged_answers(prompts_of(TALKS), ask, judge, out, answers=2)


def test_answers_that_are_alike_or_unfinished_are_counted(tmp_path):
    alike = Asker(RuleModel(lambda *_: "same"), DRAWN)
    report = judged_answers(prompts_of(TALKS), alike, judge_of(by_length), tmp_path / "a.jsonl")
    assert (report.records, report.counts["answers all alike"]) == (0, 4)
    cut = Asker(RuleModel(lambda *_: ("cut", "length")), DRAWN)
    report = judged_answers(prompts_of(TALKS), cut, judge_of(by_length), tmp_path / "b.jsonl")
    assert report.counts["answer not finished"] == 8
    with pytest.raises(ConfigError, match="drawn at a temperature above 0"):
        judged_answers(prompts_of(TALKS), Asker(RuleModel(answerer), GREEDY), judge_of(by_length), tmp_path / "c.jsonl")
    with pytest.raises(DataError, match="no prompts"):
        judged_answers([], alike, judge_of(by_length), tmp_path / "d.jsonl")


def reviser(question, sampling):
    """Drafts; finds fault by naming the principle; revises by adding its last word to the answer."""
    principle = re.search(r"principle: (.*)", question)
    if "Write the new answer alone" in question:
        answer = re.search(r"\[assistant\]\n(.*)", question)[1]
        assert f"critique of the last answer: It lacks {principle[1]}" in question
        return f"{answer} {principle[1].split()[-1]}"
    return f"It lacks {principle[1]}" if principle else f"Draft of {question}"


def test_revisions_are_made_by_one_principle_after_the_other(tmp_path):
    ask = Asker(RuleModel(reviser), GREEDY)
    out = tmp_path / "pairs.jsonl"
    report = revised_answers(prompts_of(TALKS), Constitution(("Be warm", "Be clear"), ask, rounds=2), out)
    assert report.records == 4
    for pair, talk in zip(preferences.comparisons(out), TALKS, strict=False):
        draft = f"Draft of {talk.messages[0]['content']}"
        assert pair.rejected[0]["content"] == draft
        assert pair.chosen[0]["content"] in (f"{draft} warm clear", f"{draft} clear warm")
    record = json.loads(out.read_text().splitlines()[0])
    assert [set(step) for step in record["steps"]] == [{"principle", "critique", "revision"}] * 2
    assert record["provenance"]["principles"] == ["Be warm", "Be clear"]
    tuned = tmp_path / "set.jsonl"
    revised_answers(prompts_of(TALKS), Constitution(("Be warm",), ask), tuned, records="instructions")
    assert next(conversations.read(tuned)).messages[1]["content"] == "Draft of Say 0. warm"


def test_what_is_not_revised_is_counted(tmp_path):
    drafts = lambda question, _: "?" if "In which way" in question else "Mine."  # noqa: E731
    stubborn = Asker(RuleModel(drafts), GREEDY)
    report = revised_answers(prompts_of(TALKS), Constitution(("Be warm",), stubborn), tmp_path / "a.jsonl")
    assert (report.records, report.counts) == (0, {"unchanged": 4})
    silent = Asker(RuleModel(lambda question, _: "" if "in which way" in question.lower() else "x"), GREEDY)
    report = revised_answers(prompts_of(TALKS), Constitution(("Be warm",), silent), tmp_path / "b.jsonl")
    assert report.counts == {"critique empty": 4}


def test_principles_are_lines_of_a_file(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("# ours\nBe brief.\n\n  Be kind.  \n")
    assert read_principles(file) == ("Be brief.", "Be kind.")
    file.write_text("# none\n")
    with pytest.raises(DataError, match="has no principles"):
        read_principles(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_principles(file)
    with pytest.raises(DataError, match="there is no file"):
        read_principles(tmp_path / "none")
    with pytest.raises(DataError, match="no principles to revise by"):
        Constitution((), Asker(RuleModel(reviser), GREEDY))
