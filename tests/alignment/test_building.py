"""Building instruction sets: by a model that answers by rule, so that every record can be foretold."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.alignment import building
from penjing.alignment.asking import Asker
from penjing.alignment.building import Rules, build
from penjing.alignment.from_documents import FromDocuments, passages, question_in
from penjing.alignment.rouge import Texts, common_subsequence, rouge_l
from penjing.alignment.self_instruct import SelfInstruct, seed_tasks, tasks_in
from penjing.alignment.units import Units
from penjing.data import conversations
from penjing.data.corpus import Document
from penjing.errors import ConfigError, DataError, GenerationError, TrainingError
from penjing.inference.sampling import Sampling
from tests.alignment.rules import RuleModel

SETTINGS = Sampling(temperature=0.5, max_new_tokens=50)


def reader(question, sampling):
    """Asks who has the thing of a passage "X has a Y.", and answers it; the first time it asks the same twice."""
    if found := re.search(r"(\w+) has a (\w+)", question):
        owner, thing = found.groups()
        if "Write one question" in question:
            return f'1. "Who has the {thing}, and what does it look like?"'
        return f"{owner} has the {thing}."
    if found := re.search(r"(\w)有一(\w)", question):
        return "问题：谁有一件东西呢？" if "提出一个" in question else "甲有。"
    raise AssertionError(question)


DOCUMENTS = [
    Document("Ann has a bucket.", "a.txt, line 1"),
    Document("Bob has a lantern.", "a.txt, line 2"),
    Document("甲有一树。", "b.txt"),
]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_documents_become_questions_with_answers_and_say_where_from(tmp_path):
    """The second question about each passage is its first again, and is left out; Chinese is asked in Chinese."""
    ask = Asker(RuleModel(reader), SETTINGS, seed=3)
    report = build(FromDocuments(DOCUMENTS), ask, tmp_path / "set.jsonl", rules=Rules(similar=0.9))
    records = read(tmp_path / "set.jsonl")
    assert [[m["content"] for m in record["messages"]] for record in records] == [
        ["Who has the bucket, and what does it look like?", "Ann has the bucket."],
        ["Who has the lantern, and what does it look like?", "Bob has the lantern."],
        ["谁有一件东西呢？", "甲有。"],
    ]
    assert records[0]["provenance"] == {
        "source": "a.txt, line 1, passage 1",
        "prompt": "documents-1",
        "model": "rule",
        "sampling": {"temperature": 0.5, "max_new_tokens": 50},
        "seed": 3,
    }
    assert report.to_dict() == {
        "units": 3,
        "records": 3,
        "left_out": {"question like another": 3},
        "finished": "source",
    }
    assert next(conversations.read(tmp_path / "set.jsonl")).messages[1]["content"] == "Ann has the bucket."


def test_like_questions_of_other_passages_and_sets_are_left_out(tmp_path):
    """Both questions have eight of nine words in common: ROUGE-L 0.89, below 0.95 and above 0.7."""
    similar = Rules(similar=0.7)
    report = build(FromDocuments(DOCUMENTS[:2], questions=1), Asker(RuleModel(reader), SETTINGS), tmp_path / "a.jsonl",
                   rules=similar)  # fmt: skip
    assert (report.records, report.left_out["question like another"]) == (1, 1)
    there = ["who has the lantern and what does it look like"]
    report = build(FromDocuments(DOCUMENTS[:2], questions=1), Asker(RuleModel(reader), SETTINGS), tmp_path / "b.jsonl",
                   rules=Rules(similar=0.95), existing=there)  # fmt: skip
    assert (report.records, report.left_out["question like another"]) == (1, 1)


SEEDS = [(f"Seed task number {number} about {word}.", f"seed {number}") for number, word in enumerate(
    ("rivers", "poems", "sums", "birds", "maps", "songs", "bread", "clocks"))]  # fmt: skip


def thinker(question, sampling):
    """New tasks whose words depend on the seed, so that they are new in each round; or an answer."""
    if "new tasks" in question:
        words = [f"w{(sampling.seed * prime) % 9973}" for prime in (3, 7, 11, 13, 17, 19)]
        return (
            f"Of course!\n1. {' '.join(words)}\n2) Seed task number 0 about rivers.\n3. Draw a picture of a cat now.\n"
        )
    return f"The answer to {sampling.seed}."


def test_self_instruct_grows_the_pool_from_seeds(tmp_path):
    """Of three tasks a round, one is a seed again and one asks for a picture."""
    model = RuleModel(thinker)
    ask = Asker(model, SETTINGS)
    report = build(SelfInstruct(SEEDS), ask, tmp_path / "set.jsonl", count=5)
    records = read(tmp_path / "set.jsonl")
    assert len(records) == report.records == 5
    assert report.finished == "count"
    assert report.left_out == {"question like another": 5, "question about what is not there": 5}
    prompts = [asked for asked in model.asked if "new tasks" in asked]
    shown = [re.findall(r"^\d\. (.*)$", prompt, re.MULTILINE) for prompt in prompts]
    assert [len(tasks) for tasks in shown] == [6, 7, 8, 8, 8]
    own = {record["messages"][0]["content"] for record in records}
    assert sum(task in own for task in shown[-1]) == 2
    assert records[0]["provenance"]["prompt"] == "self-instruct-1"
    assert "seed " in records[0]["provenance"]["source"]


def test_nothing_new_for_long_ends_it(tmp_path):
    model = RuleModel(lambda question, sampling: "I cannot think of any.")
    report = build(SelfInstruct(SEEDS), Asker(model, SETTINGS), tmp_path / "set.jsonl", count=5, patience=3)
    assert (report.finished, report.units, report.records) == ("nothing new", 3, 0)
    assert report.left_out == {"no list of tasks": 3}
    assert read(tmp_path / "set.jsonl") == []


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("make", [lambda: FromDocuments(DOCUMENTS), lambda: SelfInstruct(SEEDS)])
def test_a_killed_run_goes_on_where_it_was(tmp_path, stop, make):
    """Oracle: the uninterrupted run's file, byte for byte; nothing that was written down is asked again."""
    rule = lambda question, sampling: (reader if "has a" in question or "有一" in question else thinker)(  # noqa: E731
        question, sampling
    )
    whole = RuleModel(rule)
    build(make(), Asker(whole, SETTINGS), tmp_path / "whole.jsonl", count=3)

    class Killed(Exception):
        pass

    def until(question, sampling):
        if len(killed.asked) > stop:
            raise Killed
        return rule(question, sampling)

    killed = RuleModel(until)
    with pytest.raises(Killed):
        build(make(), Asker(killed, SETTINGS), tmp_path / "set.jsonl", count=3)
    assert not (tmp_path / "set.jsonl").exists()
    journal = tmp_path / ".set.jsonl.work" / "units.jsonl"
    done = journal.read_text().count('"unit"')
    journal.write_bytes(journal.read_bytes() + b'{"unit": "half')  # as a kill amid a line leaves it
    again = RuleModel(rule)
    build(make(), Asker(again, SETTINGS), tmp_path / "set.jsonl", count=3)
    assert (tmp_path / "set.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    lines = (tmp_path / ".whole.jsonl.work" / "units.jsonl").read_text().splitlines()
    assert len(again.asked) == len(whole.asked) - sum(_asked(line) for line in lines[1 : done + 1])


def _asked(line: str) -> int:
    """How often the rules above are asked in a unit: each question or list, and each answer that was wanted."""
    result = json.loads(line)
    questions = 2 if "passage" in result["unit"] else 1
    return questions + len(result["result"]["records"])


def test_a_larger_count_goes_on_and_another_way_of_making_is_refused(tmp_path):
    out = tmp_path / "set.jsonl"
    build(SelfInstruct(SEEDS), Asker(RuleModel(thinker), SETTINGS), out, count=2)
    first = out.read_text()
    model = RuleModel(thinker)
    build(SelfInstruct(SEEDS), Asker(model, SETTINGS), out, count=4)
    assert out.read_text().startswith(first)
    assert len(read(out)) == 4
    assert len(model.asked) == 4
    with pytest.raises(ConfigError, match="seed was 0, now it is 1"):
        build(SelfInstruct(SEEDS), Asker(model, SETTINGS, seed=1), out, count=4)
    with pytest.raises(ConfigError, match="seeds was"):
        build(SelfInstruct(SEEDS[1:]), Asker(model, SETTINGS), out, count=4)
    (tmp_path / "other.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        build(SelfInstruct(SEEDS), Asker(model, SETTINGS), tmp_path / "other.jsonl", count=4)
    assert (tmp_path / "other.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Too short", "Yes.", "question too short"),
        ("word " * 151, "Yes.", "question too long"),
        ("What is in the picture of a cat?", "Yes.", "question about what is not there"),
        ("这张图片里有什么东西？", "猫", "question about what is not there"),
        ("What does the text say of Ann?", "Yes.", "question about the text as a text"),
        ("Where does \ufffd live now?", "Here", "broken characters"),
        ("Where does Ann live now?", "In a \ufffd.", "broken characters"),
        ("Where does Ann live now?", "...", "answer too short"),
        ("Where does Ann live now?", "where does ann live now", "answer repeats the question"),
        ("Where does Ann live now?", "Ann lives here. " * 30, "repeated words"),
        ("Where does Ann live now?", ("She lives in a hou", "length"), "answer not finished"),
        ("Where does Ann live now?", "", "answer empty"),
    ],
)
def test_each_rule_leaves_out_what_breaks_it(tmp_path, question, answer, reason):
    model = RuleModel(lambda asked, _: question if "Write one question" in asked else answer)
    documents = [Document("Ann lives in a house by the sea.", "a")]
    report = build(FromDocuments(documents, questions=1), Asker(model, SETTINGS), tmp_path / "set.jsonl")
    assert report.left_out == {reason: 1}


def test_a_passage_that_is_too_long_for_the_model_is_left_out(tmp_path):
    def refuse(question, sampling):
        raise GenerationError("too long")

    report = build(FromDocuments(DOCUMENTS[:1]), Asker(RuleModel(refuse), SETTINGS), tmp_path / "set.jsonl")
    assert report.left_out == {"longer than the model's context": 2}


def test_the_seed_of_an_answer_follows_from_its_name():
    seen = []
    ask = Asker(RuleModel(lambda question, sampling: seen.append(sampling.seed) or "x"), SETTINGS, seed=1)
    for name in (("a", 1), ("a", 2), ("a", 1)):
        ask("Hi", *name)
    assert seen[0] == seen[2] != seen[1]


words = st.lists(st.sampled_from("abcd"), max_size=12)


@given(words, words)
def test_the_common_subsequence_equals_the_table_of_the_textbook(one, two):
    table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one, 1):
        for j, b in enumerate(two, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    assert common_subsequence(one, two) == table[-1][-1]


def test_rouge_l_by_hand():
    """Lin's example, section 3: "police killed the gunman" and "police kill the gunman" have 3 of 4 words in order."""
    killed, kill = ["police", "killed", "the", "gunman"], ["police", "kill", "the", "gunman"]
    assert rouge_l(killed, kill) == 0.75
    assert rouge_l(killed, ["the", "gunman", "kill", "police"]) == 0.5
    known = Texts(0.7, ["Police killed the gunman!"])
    assert known.has_like("police kill the gunman")
    assert not known.has_like("the gunman kill police")
    assert not Texts(0.75, ["Police killed the gunman!"]).has_like("police kill the gunman")
    assert rouge_l([], []) == 0


def test_lists_questions_and_passages_are_found_in_text():
    assert tasks_in("1. a b\n 2、写诗\n- no\n10) c") == ["a b", "写诗", "c"]
    assert [question_in(text) for text in ("Q: Why?", "\n“何时？”\nmore", "3. How?", "问题1：谁？", "")] == [
        *("Why?", "何时？", "How?", "谁？", "")
    ]
    text = "One two three. Four five six! Seven. " * 3 + "\n\nShort.\n\n" + "字" * 50
    found = list(passages(text, 40))
    assert all(0 < len(passage) <= 40 for passage in found)
    assert re.sub(r"\s", "", "".join(found)) == re.sub(r"\s", "", text)


def test_seeds_are_read_from_every_layout(data, tmp_path):
    assert len(seed_tasks(data / "instruct" / "self_instruct_seed_tasks.jsonl")) == 175
    alpaca = tmp_path / "a.jsonl"
    alpaca.write_text(json.dumps({"instruction": "Add.", "input": "1, 2", "output": "3"}))
    assert seed_tasks(alpaca) == [("Add.\n\n1, 2", f"{alpaca}, line 1")]
    with pytest.raises(DataError, match="no seed tasks"):
        SelfInstruct([])


def test_a_journal_that_is_damaged_or_in_use_is_refused(tmp_path):
    with Units(tmp_path / "w", {"a": 1}) as units:
        units.add("one", [1])
        with pytest.raises(TrainingError, match="another run is writing"), Units(tmp_path / "w", {"a": 1}):
            pass
    with Units(tmp_path / "w", {"a": 1}) as units:
        assert units.done == {"one": [1]}
    file = tmp_path / "w" / "units.jsonl"
    file.write_bytes(b"no json\n" + file.read_bytes())
    with pytest.raises(DataError, match="line 1: damaged"), Units(tmp_path / "w", {"a": 1}):
        pass
    assert building.Report().to_dict()["left_out"] == {}
