"""Data from a model's feedback on answers, written down prompt by prompt: what RLAIF and revision learn from.

    judged_answers(prompts, ask, judge, Path("pairs.jsonl"))         draws answers, has pairs judged (`judge`)
    revised_answers(prompts, constitution, Path("pairs.jsonl"))      revises by principles (`constitution`)

Both write JSON lines that `preferences.read` reads (revisions also as conversations to tune on), each with its
provenance, count what came to nothing by reason, and go on where they were after a kill (`units`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from penjing.alignment.asking import Asker
from penjing.alignment.constitution import Constitution
from penjing.alignment.judge import Judge
from penjing.alignment.units import Units
from penjing.data.conversations import Conversation
from penjing.errors import ConfigError, DataError
from penjing.files import atomic_file

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message


@dataclass
class Report:
    """What came of it."""

    prompts: int = 0
    records: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Of a judge: pairs, ties, unreadable verdicts, votes; and what came to nothing, by reason."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**vars(self), "counts": dict(self.counts)}


def prompts_of(talks: Iterable[Conversation]) -> "Iterator[tuple[str, tuple[Message, ...]]]":
    """Where each conversation is from, and all of it up to the user's last message; without one it is left out."""
    for talk in talks:
        asked = [number for number, message in enumerate(talk.messages) if message["role"] == "user"]
        if asked:
            yield talk.origin, talk.messages[: asked[-1] + 1]


def judged_answers(
    prompts: "Iterable[tuple[str, tuple[Message, ...]]]",
    ask: Asker,
    judge: Judge,
    out: Path,
    *,
    answers: int = 2,
    progress: Callable[[Report], None] | None = None,
) -> Report:
    """Draws answers to each prompt and writes the pairs on which the judge decided.

    Args:
        prompts: as of `prompts_of`.
        ask: whose answers are compared; at temperature 0 they would all be alike.
        judge: who compares them; it may be the same model.
        out: the file of comparisons.
        answers: how many to each prompt; every two of them are compared.
        progress: called with the report after each prompt.

    Raises:
        ConfigError: there is nothing to compare, or `out` was made in another way.
        DataError: there are no prompts.
    """
    if answers < 2 or ask.sampling.greedy:
        raise ConfigError("two answers to each prompt, drawn at a temperature above 0, are the least to compare")

    def one(name: str, prompt: "tuple[Message, ...]") -> tuple[list[Any], Mapping[str, int]]:
        drawn = [ask(prompt, name, "answer", number) for number in range(answers)]
        faults = Counter(f"answer {answer.fault}" for answer in drawn if answer.fault)
        found, counts = judge.preferences(prompt, [answer.text for answer in drawn if not answer.fault], name)
        alike = Counter({"answers all alike": not counts["pairs"] and not faults})
        records = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in found]
        return records, Counter(counts) + faults + alike

    provenance = {"answers": {**ask.provenance, "of each": answers}, "judge": judge.provenance}
    return _write(prompts, one, provenance, out, progress)


def revised_answers(
    prompts: "Iterable[tuple[str, tuple[Message, ...]]]",
    constitution: Constitution,
    out: Path,
    *,
    records: Literal["preferences", "instructions"] = "preferences",
    progress: Callable[[Report], None] | None = None,
) -> Report:
    """Has answers to each prompt revised and writes revisions over drafts, or the revisions to tune on.

    Raises:
        ConfigError: `out` was made in another way.
        DataError: there are no prompts.
    """

    def one(name: str, prompt: "tuple[Message, ...]") -> tuple[list[Any], Mapping[str, int]]:
        found = constitution.revise(prompt, name)
        if isinstance(found, str):
            return [], {found: 1}
        steps = [dict(zip(("principle", "critique", "revision"), step, strict=True)) for step in found.steps]
        if records == "instructions":
            return [{"messages": found.conversation.messages, "steps": steps}], {}
        pair = found.comparison
        return [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected, "steps": steps}], {}

    return _write(prompts, one, {**constitution.provenance, "records": records}, out, progress)


def _write(
    prompts: "Iterable[tuple[str, tuple[Message, ...]]]",
    one: "Callable[[str, tuple[Message, ...]], tuple[list[Any], Mapping[str, int]]]",
    provenance: dict[str, Any],
    out: Path,
    progress: Callable[[Report], None] | None,
) -> Report:
    """Does each prompt, unless the journal has it, and writes all records at the end."""
    report, journal = Report(), out.with_name(f".{out.name}.work")
    if out.exists() and not journal.exists():
        raise ConfigError(f"{out} is there already, and no journal of how it was made; write to another place")
    lines: list[str] = []
    with Units(journal, provenance) as units:
        for number, (origin, prompt) in enumerate(prompts, 1):
            name = f"{origin} ({number})"
            if name not in units.done:
                records, counts = one(origin, prompt)
                told = [{**record, "provenance": {"source": origin, **provenance}} for record in records]
                units.add(name, {"records": told, "counts": dict(counts)})
            result = units.done[name]
            lines += [json.dumps(record, ensure_ascii=False) for record in result["records"]]
            report.prompts, report.records = number, len(lines)
            report.counts.update(result["counts"])
            if progress is not None:
                progress(report)
        if not report.prompts:
            raise DataError("there are no prompts: no conversation has a message of the user")
        with atomic_file(out) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return report
