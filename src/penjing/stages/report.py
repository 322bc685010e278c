"""The report of a run: `report.md` with plots for people, `report.json` for programs."""

import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penjing import __version__
from penjing.files import atomic_file, write_json
from penjing.recipe import Recipe
from penjing.stages.bars import Bars
from penjing.stages.compare import Compare
from penjing.stages.evaluation import Evaluate
from penjing.stages.grpo import GRPOStage
from penjing.stages.ppo import PPOStage
from penjing.stages.preference import Preference
from penjing.stages.reward import Reward
from penjing.stages.training import Instruct, Pretrain
from penjing.training.metrics import read_metrics
from penjing.training.plots import Curve, Plot

Results = Mapping[str, Mapping[str, Any]]

_METHOD_PLOTS = ("reward", "kl", "margin", "accuracy", "calibration")
"""Of a method's pictures, those that the report shows."""


def write_report(recipe: Recipe, out: Path, results: Results) -> dict[str, Any]:
    """Writes `report.md`, `report.json` and their plots into `out`; returns what report.json holds."""
    pretrain, instruct, measured = (_latest(recipe, results, kind) for kind in (Pretrain, Instruct, Evaluate))
    report: dict[str, Any] = {
        "recipe": recipe.name,
        "description": recipe.description,
        "seed": recipe.seed,
        "penjing": __version__,
        "python": platform.python_version(),
        "seconds": sum(result["seconds"] for result in results.values()),
        "stages": {name: _without(result, "skills", "base_skills", "assistants") for name, result in results.items()},
    }
    parts = [f"# {recipe.name}\n\n{recipe.description}\n" if recipe.description else f"# {recipe.name}\n"]
    if pretrain is not None:
        parts.append(_summary(report, results, pretrain, instruct))
    if pretrain is not None and measured is not None:
        report["losses"] = _losses(recipe, out, results, pretrain, measured)
        parts.append(_loss_section(report["losses"]))
    if measured is not None and "skills" in results[measured]:
        report["skills"], report["base_skills"] = results[measured]["skills"], results[measured]["base_skills"]
        parts.append(_skill_section(out, report["skills"], report["base_skills"]))
    compared = _latest(recipe, results, Compare)
    if compared is not None:
        report["comparison"] = results[compared]["assistants"]
        parts.append(_comparison_section(recipe, out, results, compared))
    parts.append(_time_section(results))
    parts.append(_next_section(out, pretrain, instruct))
    write_json(out / "report.json", report)
    with atomic_file(out / "report.md") as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")
    return report


def _latest(recipe: Recipe, results: Results, kind: type) -> str | None:
    names = [name for name, stage in recipe.stages.items() if isinstance(stage, kind) and name in results]
    return names[-1] if names else None


def _without(result: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in names}


def _summary(report: Mapping[str, Any], results: Results, pretrain: str, instruct: str | None) -> str:
    made = results[pretrain]
    told = (
        f"A model of {made['parameters'] / 1e6:.2f} million parameters read {made['tokens'] / 1e6:.2f} million tokens "
        f"in {made['steps']:,} steps ({made['epochs']:.2f} epochs)"
    )
    if instruct is not None:
        tuned = results[instruct]
        told += (
            f", then {tuned['tokens'] / 1e6:.2f} million tokens of conversations in {tuned['steps']:,} steps "
            f"({tuned['epochs']:.2f} epochs)"
        )
    return f"{told}. All stages together took {report['seconds'] / 60:.1f} minutes.\n"


# is the loss normal?


def _losses(recipe: Recipe, out: Path, results: Results, pretrain: str, measured: str) -> dict[str, Any]:
    """The figures of the loss section; draws its plot."""
    found = results[measured]
    counted = found["baselines"]
    to_bits = counted["tokens_per_byte"] / math.log(2)
    steps = read_metrics(out / pretrain / "metrics.jsonl")
    first = next((line["loss"] for line in steps if "loss" in line), math.nan)
    last = max((line["step"] for line in steps), default=1) or 1  # stopped before the first step
    points = [(line["step"] / last, line["validation"]["loss"] * to_bits) for line in steps if "validation" in line]
    curves = [Curve("this run, validation", [at for at, _ in points], [bits for _, bits in points], points=True)]
    if recipe.curve:
        curves.append(Curve("as recorded with the recipe", recipe.curve.progress, recipe.curve.bits_per_byte))
    levels = {name: counted[f"{name}_bits_per_byte"] for name in ("uniform", "unigram", "bigram")}
    Plot("Is my loss normal?", "progress of pretraining", "bits per byte", curves, levels).save(out / "loss.png")
    recorded = recipe.curve.bits_per_byte[-1] if recipe.curve else None
    return {
        "first_training_loss": first,
        "ln_vocab": counted["uniform"],
        "validation_loss": found["validation_loss"],
        "bits_per_byte": found["bits_per_byte"],
        "recorded_bits_per_byte": recorded,
        **levels,
    }


def _loss_section(losses: Mapping[str, Any]) -> str:
    rows = [
        ("uniform: every token alike", losses["uniform"]),
        ("unigram: how often each token occurs", losses["unigram"]),
        ("bigram: and which token came before", losses["bigram"]),
        ("**this model**", losses["bits_per_byte"]),
    ]
    if losses["recorded_bits_per_byte"] is not None:
        rows.append(("this recipe, as recorded", losses["recorded_bits_per_byte"]))
    table = "\n".join(f"| {name} | {bits:.3f} |" for name, bits in rows)
    return f"""## Is my loss normal?

An untrained model finds every token equally likely: its loss is ln(vocabulary) = {losses["ln_vocab"]:.2f} nats. This
one began at {losses["first_training_loss"]:.2f} and ended at {losses["validation_loss"]:.3f} on text that it had not
seen. In bits for each byte of that text, which do not depend on the vocabulary:

| model | bits per byte |
|---|---|
{table}

![Validation loss over the run, with the baselines](loss.png)
"""


# skills


def _skill_section(out: Path, skills: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    names = list(skills["skills"])
    languages = list(skills["languages"])
    header = "| skill | | " + " | ".join(languages) + " | base model | chance |"
    rows = [header, "|---|---|" + "---|" * (len(languages) + 2)]
    for name in names:
        entry, before = skills["skills"][name], base["skills"][name]
        cells = " | ".join(_interval(entry["languages"][language]) for language in languages)
        half = "easier" if entry["easy"] else "harder"
        rows.append(f"| {name} | {half} | {cells} | {before['accuracy']:.0%} | {entry['chance']:.0%} |")
    Bars(
        "Held-out items answered exactly right",
        names,
        {lang: [skills["skills"][name]["languages"][lang]["accuracy"] for name in names] for lang in languages},
        marks={
            "base model": [base["skills"][name]["accuracy"] for name in names],
            "chance": [skills["skills"][name]["chance"] for name in names],
        },
    ).save(out / "skills.png")
    return f"""## Skills

Items of the held-out split, whose names, combinations and lengths training never had; an answer counts only if it is
exactly right. Brackets hold 95 % intervals.

| | this model | base model | chance |
|---|---|---|---|
| easier half | **{skills["easy"]:.1%}** | {base["easy"]:.1%} | {skills["chance"]["easy"]:.1%} |
| all skills | **{skills["overall"]:.1%}** | {base["overall"]:.1%} | {skills["chance"]["overall"]:.1%} |

{chr(10).join(rows)}

![Accuracy of each skill](skills.png)

{_examples(skills)}"""


def _interval(entry: Mapping[str, Any]) -> str:
    return f"{entry['accuracy']:.0%} ({entry['low']:.0%} to {entry['high']:.0%})"


def _examples(skills: Mapping[str, Any]) -> str:
    parts = ["### Answers, right and wrong\n"]
    for name, entry in skills["skills"].items():
        for example in entry["examples"]:
            question = example["question"].replace("\n", " ")
            sign = "✓" if example["right"] else "✗"
            told = f"- {name}: {question} — {sign} “{example['answer']}”"
            parts.append(told if example["right"] else f"{told} (wanted: “{example['expected']}”)")
    return "\n".join(parts) + "\n"


def _comparison_section(recipe: Recipe, out: Path, results: Results, compared: str) -> str:
    """Who is right how often, and who beats the first one, with each method's own plots."""
    found, minutes = results[compared]["assistants"], {name: result["seconds"] / 60 for name, result in results.items()}
    first = next(iter(found))
    rows = []
    for name, one in found.items():
        wins, kl = one.get("win_rate"), one.get("kl")
        beats = f"{wins['rate']:.0%} ({wins['low']:.0%} to {wins['high']:.0%})" if wins else ""
        away = f"{kl['mean']:.2f} ± {kl['error']:.2f}" if kl else ""
        took = f"{minutes[name]:.1f}" if name in minutes else ""
        rows.append(f"| {name} | {_interval(one['accuracy'])} | {beats} | {away} | {took} |")
    plots = [
        f"![{name}: {plot.stem.replace('_', ' ')}]({plot.relative_to(out).as_posix()})"
        for name in recipe.stages
        if name in results and isinstance(recipe.stages[name], Preference | Reward | PPOStage | GRPOStage)
        for plot in sorted((out / name).glob("*.png"))
        if plot.stem in _METHOD_PLOTS
    ]
    return f"""## Aligned

{results[compared]["questions"]:,} questions of the held-out split, the same to each. A win is a right answer where
{first}'s is wrong; a tie counts half. KL is in nats an answer, from {first}. Brackets hold 95 % intervals.

| | right | wins against {first} | KL | minutes |
|---|---|---|---|---|
{chr(10).join(rows)}

![Accuracy of each]({compared}/accuracy.png)

Answers side by side: [{compared}/samples.md]({compared}/samples.md)

{chr(10).join(plots)}
"""


def _time_section(results: Results) -> str:
    rows = "\n".join(f"| {name} | {result['seconds']:.0f} s |" for name, result in results.items())
    return f"## Time\n\n| stage | |\n|---|---|\n{rows}\n"


def _next_section(out: Path, pretrain: str | None, instruct: str | None) -> str:
    lines = []
    if instruct is not None:
        lines.append(f"penjing chat {out / instruct / 'model'}")
    if pretrain is not None:
        lines.append(f'penjing generate {out / pretrain / "model"} "..."')
        lines.append(f"penjing info {out / pretrain / 'model'}")
    return "## What next\n\n```\n" + "\n".join(lines) + "\n```\n" if lines else ""
