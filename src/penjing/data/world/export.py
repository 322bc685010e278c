"""The world written out as files: text to pretrain on and dialogues to instruct with, made on all cores.

Each line depends on its own seed alone, so the files are the same whatever the number of processes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from penjing.data.world import dialogue, document, explanation, small_talk
from penjing.data.world.conversation import weights_of_skills
from penjing.files import atomic_file
from penjing.workers import in_order

_BATCH = 500
_VALIDATION_SEEDS = 500_000_000  # unseen seeds of the same world start here; training never reaches them


@dataclass(frozen=True)
class Order:
    """Which lines to write: `count` of a kind, from seed `first` on."""

    kind: str
    first: int
    count: int
    languages: tuple[str, ...]
    notes: bool = True
    explanations: int = 0
    weights: Mapping[str, float] | None = None
    small_talk: int = 0

    def batches(self) -> Iterator["Order"]:
        """The same lines in pieces that are worth a process's while."""
        for start in range(0, self.count, _BATCH):
            yield replace(self, first=self.first + start, count=min(_BATCH, self.count - start))


def write_world(
    folder: Path,
    *,
    documents: int,
    dialogues: int,
    validation: int,
    seed: int,
    languages: tuple[str, ...] = ("en", "zh"),
    notes: bool = True,
    explanations: int = 8,
    skills: Mapping[str, float] | None = None,
    small_talk: int = 0,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Writes `train.jsonl`, `validation.jsonl` (unseen seeds) and `dialogues.jsonl`; returns their paths by name.

    With `notes`, answers that may be worked out begin with notes. One conversation in `explanations` explains things
    (0: none): questions alone let a model forget what its documents taught. `skills` has weights of skills in the
    dialogues; those that it does not name have 1. One conversation in `small_talk` (0: none) greets, thanks
    or asks who is there. `on_progress(done, all)` is called as lines
    are finished.
    """
    base = seed * 1_000_000_000
    weights = weights_of_skills(skills) if skills else None
    orders = {
        "train": Order("document", base, documents, languages, notes),
        "validation": Order("document", base + _VALIDATION_SEEDS, validation, languages, notes),
        "dialogues": Order("dialogue", base, dialogues, languages, notes, explanations, weights, small_talk),
    }
    total, done = documents + dialogues + validation, 0
    paths = {}
    batches = chain.from_iterable(order.batches() for order in orders.values())
    with closing(in_order(_write, batches, workers, processes=True)) as written:
        for name, order in orders.items():
            paths[name] = folder / f"{name}.jsonl"
            with atomic_file(paths[name]) as temporary, temporary.open("w", encoding="utf-8") as file:
                for lines in islice(written, len(list(order.batches()))):
                    file.writelines(lines)
                    done += len(lines)
                    if on_progress:
                        on_progress(done, total)
    return paths


def _write(order: Order) -> list[str]:
    lines = []
    for seed in range(order.first, order.first + order.count):
        language = order.languages[seed % len(order.languages)]
        if order.kind == "document":
            record: dict[str, object] = {"text": document(seed, language=language, notes=order.notes)}
        elif order.explanations and seed // len(order.languages) % order.explanations == 0:
            messages = list(explanation(seed, language=language))
            record = {"messages": messages, "skill": "explanation", "language": language}
        elif order.small_talk and seed // len(order.languages) % order.small_talk == order.small_talk - 1:
            messages = list(small_talk(seed, language=language))
            record = {"messages": messages, "skill": "small talk", "language": language}
        else:
            item = dialogue(seed, language=language, notes=order.notes, weights=order.weights)
            record = {"messages": list(item.messages), "skill": item.skill, "language": item.language}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return lines
