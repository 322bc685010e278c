"""Building an instruction set with a model: records that are new, good enough, and say where they are from.

    report = build(FromDocuments(Corpus("notes/")), Asker(model, Sampling(0.7, max_new_tokens=200)), Path("set.jsonl"))

A source makes questions, unit by unit (a passage, a round), and each passes through

    question -> rules -> like one that is there? -> the model's answer -> rules -> record with its provenance

What is left out is counted by reason. Every unit is written down when it is done (`units`), so a run that was killed
goes on where it was; the file itself appears whole, at the end. A record is a line that `conversations.read` reads:

    {"messages": [...], "provenance": {"source": "notes/a.txt, passage 3", "prompt": "documents-1", "model": "...",
     "sampling": {...}, "seed": 1}}

Source: the rules are those of Wang et al., "Self-Instruct", 2022, arXiv:2212.10560, section 2.2 and appendix A.2, and
`data.cleaning.quality`'s for repetition.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from penjing.alignment.asking import Answer, Asker
from penjing.alignment.rouge import Texts, rouge_l
from penjing.alignment.units import Units
from penjing.data.cleaning.minhash import words
from penjing.data.cleaning.quality import Quality
from penjing.errors import ConfigError
from penjing.files import atomic_file

_UNSEEN = re.compile(
    r"\b(?:image|images|picture|pictures|photo|photos|graph|graphs|diagram|chart|video|audio|attached)\b"
    r"|图片|图像|照片|视频|音频|附件|下图|上图",
    re.IGNORECASE,
)
_ABOUT_TEXT = re.compile(r"\b(?:the|this) (?:text|passage)\b|(?:这段|上述|该|本)(?:文字|文本|文章)", re.IGNORECASE)


@dataclass(frozen=True)
class Made:
    """A question that a source made, or why it made none."""

    question: str
    source: str
    """What it was made from."""
    fault: str = ""
    answered: Callable[[], Answer] | None = None
    """Has it answered; called only where the question is good and new."""


class Source(Protocol):
    """What questions come from, a unit at a time."""

    version: str
    """Of the words in which the model is asked."""

    @property
    def questions(self) -> list[str]:
        """Questions that are there already."""

    @property
    def settings(self) -> dict[str, Any]:
        """What else its units depend on, as JSON holds it."""

    def units(self) -> Iterator[str]:
        """The units' names, each right before it is made; always the same."""

    def make(self, unit: str, ask: Asker, before: Sequence[str]) -> Iterator[Made]:
        """The questions of the unit that was named last; `before` are those that were kept of the units before."""


@dataclass(frozen=True)
class Rules:
    """What a record must be like."""

    question_words: tuple[int, int] = (3, 150)
    answer_words: tuple[int, int] = (1, 1000)
    similar: float = 0.7
    """The ROUGE-L with a question there is, at most."""
    repetition: Quality = field(
        default_factory=lambda: Quality(
            least_words=0, word_length=(0, 1000), symbols=1, bullets=1, ellipses=1, alphabetic=0, stop_words=0
        )
    )
    """What answers are held to besides: lines and runs of words that repeat."""

    def __post_init__(self) -> None:
        if not 0 < self.similar <= 1:
            raise ConfigError(f"similar is {self.similar}; it is a ROUGE-L above 0, up to 1, which lets everything by")

    def question_fault(self, question: str) -> str | None:
        """Why a question is not taken; None for a good one."""
        count, (least, most) = len(words(question)), self.question_words
        if not least <= count <= most:
            return "question too short" if count < least else "question too long"
        if "\ufffd" in question:
            return "broken characters"
        if _UNSEEN.search(question):
            return "question about what is not there"
        if _ABOUT_TEXT.search(question):
            return "question about the text as a text"
        return None

    def answer_fault(self, question: str, answer: str) -> str | None:
        """Why an answer is not taken; None for a good one."""
        found, (least, most) = words(answer), self.answer_words
        if not least <= len(found) <= most:
            return "answer too short" if len(found) < least else "answer too long"
        if "\ufffd" in answer:
            return "broken characters"
        if rouge_l(words(question), found) > 0.9:
            return "answer repeats the question"
        return self.repetition.fault(answer) if len(found) > 10 else None


@dataclass
class Report:
    """What came of it."""

    units: int = 0
    """How many have been done."""
    records: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Questions by the reason why there is no record of them."""
    finished: str = ""
    """Why it ended: "count", "source", or "nothing new" for many units."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**vars(self), "left_out": dict(self.left_out.most_common())}


def build(
    source: Source,
    ask: Asker,
    out: Path,
    *,
    count: int | None = None,
    rules: Rules | None = None,
    existing: Iterable[str] = (),
    patience: int = 50,
    progress: Callable[[Report], None] | None = None,
) -> Report:
    """Makes an instruction set, or goes on with one.

    Args:
        source: where questions come from.
        ask: who is asked.
        out: the file of JSON lines; the journal is in a folder beside it, and a larger `count` goes on from there.
        count: how many records; None: until the source has no more.
        rules: what a record must be like.
        existing: questions that are there already, besides the source's own.
        patience: after so many units in a row without a record it ends.
        progress: called with the report after each unit.

    Raises:
        ConfigError: a file is there that this did not make, or what is there was begun in another way.
    """
    rules, report = rules or Rules(), Report()
    journal = out.with_name(f".{out.name}.work")
    if out.exists() and not journal.exists():
        raise ConfigError(f"{out} is there already, and no journal of how it was made; write to another place")
    known = Texts(rules.similar, [*source.questions, *existing])
    made_for = {"prompt": source.version, **source.settings, **ask.provenance, "similar": rules.similar}
    kept: list[str] = []
    records: list[dict[str, Any]] = []
    idle = 0
    with Units(journal, made_for) as units:
        report.finished = "source"
        for unit in source.units():
            if unit not in units.done:
                units.add(unit, _one(source, unit, ask, rules, known, kept))
            result = units.done[unit]
            for record in result["records"]:
                question = record["messages"][0]["content"]
                kept.append(question)
                known.keep(question)
            records += result["records"]
            report.units, report.records = report.units + 1, len(records)
            report.left_out.update(result["left_out"])
            idle = 0 if result["records"] else idle + 1
            if progress is not None:
                progress(report)
            if count is not None and len(records) >= count:
                report.finished = "count"
                break
            if idle >= patience:
                report.finished = "nothing new"
                break
        report.records = len(records[:count])
        with atomic_file(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            for record in records[:count]:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return report


def _one(source: Source, unit: str, ask: Asker, rules: Rules, known: Texts, kept: Sequence[str]) -> dict[str, Any]:
    """The records of a unit, and what was left out of it."""
    records: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    here = Texts(rules.similar)
    for made in source.make(unit, ask, kept):
        fault = made.fault or rules.question_fault(made.question)
        if not fault and (known.has_like(made.question) or here.has_like(made.question)):
            fault = "question like another"
        if not fault:
            assert made.answered
            answer = made.answered()
            fault = f"answer {answer.fault}" if answer.fault else rules.answer_fault(made.question, answer.text)
        if fault:
            left_out[fault] += 1
            continue
        here.keep(made.question)
        talk = [{"role": "user", "content": made.question}, {"role": "assistant", "content": answer.text}]
        origin = {"source": made.source, "prompt": source.version, **ask.provenance}
        records.append({"messages": talk, "provenance": origin})
    return {"records": records, "left_out": dict(left_out)}
