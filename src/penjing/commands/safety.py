"""`penjing safety`: train a moderator, measure it, and ask what the filters say of a text."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Safety: filters, policies, and the classifier behind /v1/moderations.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
_Data = Annotated[Path, typer.Option("--data", help="A folder of judged texts (openai_moderation*, COLDataset*, ...).")]
_OUT, _TAGGER_OUT = Path("runs/moderation"), Path("runs/personal")


@app.command("train")
def train(
    data: _Data,
    encoder: Annotated[Path | None, typer.Option(help="A sentence encoder's folder, such as all-MiniLM-L6-v2.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to; an interrupted run there goes on.")] = _OUT,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the recipe: training.steps=500.")
    ] = None,
    json: _Json = False,
) -> None:
    """Train a classifier of eight categories of harm, in English and in Chinese, and measure it on texts kept apart.

    It is the recipe `moderation`, and `penjing run moderation --data FOLDER` does the same.

    Examples:
    \b
      $ penjing safety train --data judged/
      $ penjing safety train --data judged/ --encoder models/all-MiniLM-L6-v2 --out runs/moderation
    """
    from json import dumps

    changes = [f"moderation.encoder={dumps(str(encoder))}"] if encoder else []
    changes += [f"moderation.{setting}" for setting in change or ()]
    folder = _make("moderation", changes, out, data, json)
    if not json:
        print(f"  use it: penjing serve MODEL --moderator {folder}")


@app.command("train-tagger")
def train_tagger(
    data: Annotated[Path, typer.Option("--data", help="A file of marked texts, in presidio's form.")],
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="Files of ordinary text (.txt, .json, .jsonl): which words are no names."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to; an interrupted run there goes on.")] = _TAGGER_OUT,
    change: Annotated[list[str] | None, typer.Option("--set", help="A setting of the recipe: folds=0.")] = None,
    json: _Json = False,
) -> None:
    """Train a tagger that finds names, addresses and places anywhere, and measure it on templates that it never saw.

    It is the recipe `personal`, and `penjing run personal --data FILE` does the same.

    Examples:
    \b
      $ penjing safety train-tagger --data marked.json --texts stories.txt --texts web.jsonl
      $ penjing safety train-tagger --data marked.json --set folds=0 --out runs/personal
    """
    from json import dumps

    changes = [f"personal.texts={dumps([str(file) for file in texts])}"] if texts else []
    changes += [f"personal.{setting}" for setting in change or ()]
    folder = _make("personal", changes, out, data, json)
    if not json:
        print(f"  use it: [personal] tagger = {dumps(str(folder))} in a policy")


def _make(name: str, changes: list[str], out: Path, data: Path, json: bool) -> Path:
    """Runs a recipe of one stage of the same name; the folder of what it made. With `json`, prints what it found."""
    from json import dumps

    from rich.console import Console

    from penjing.recipe import Recipe, run_stages
    from penjing.stages import KINDS

    results = run_stages(Recipe.read(name, KINDS, changes), out, str(data), Console(stderr=json))
    if json:
        print(dumps(results[name], ensure_ascii=False))
    return out / name / "model"


@app.command("eval")
def evaluate(
    moderator: Annotated[Path, typer.Argument(help="A moderator's or a tagger's folder, as the train commands make.")],
    data: Annotated[Path, typer.Option("--data", help="A folder of judged texts; for a tagger a file of marked ones.")],
    split: Annotated[Literal["test", "validation", "train"], typer.Option(help="Which part of the texts.")] = "test",
    everyday: Annotated[
        list[Path] | None,
        typer.Option(help="Files of harmless text (.txt, a line each; .json or .jsonl): how many would be stopped?"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Texts of each everyday file, at most.")] = 1000,
    plots: Annotated[Path | None, typer.Option(help="A folder for roc.png and categories.png.")] = None,
    json: _Json = False,
) -> None:
    """Measure a moderator: recall and false positives by category and language, with 95 % intervals.

    A tagger is measured by precision, recall and F1 by kind, beside the rules alone; all of the marked texts are used,
    so give it some that it was not trained on.

    Examples:
    \b
      $ penjing safety eval runs/moderation/moderation/model --data judged/
      $ penjing safety eval MODERATOR --data judged/ --everyday stories.txt --everyday questions.jsonl --json
    """
    from json import dumps

    import numpy as np
    from rich.console import Console

    from penjing.serving.safety import moderation_measure as measure
    from penjing.serving.safety.classifier import probabilities
    from penjing.serving.safety.everyday import read_texts
    from penjing.serving.safety.moderator import RATES, Moderator
    from penjing.serving.safety.samples import divide, read_samples
    from penjing.serving.safety.tagger import RECORD as TAGGER_RECORD

    found: dict[str, Any]
    if (moderator / TAGGER_RECORD).is_file():
        found = _tagger(moderator, data, everyday or (), limit)
        print(dumps(found, ensure_ascii=False)) if json else _show_tagger(Console(), found)
        return
    judge = Moderator.load(moderator)
    samples = divide(read_samples(data))[split]
    scores = probabilities(judge.model, judge.reader([sample.text for sample in samples])).numpy()
    found = {"split": split, "languages": measure.report(samples, scores, judge.thresholds)}
    for file in everyday or ():
        texts = read_texts(file, limit)
        by_rate = {rate: judge.judge(texts, false_positives=rate) for rate in (0.02, RATES[4])}
        found.setdefault("everyday", {})[str(file)] = {
            f"{rate:g}": measure.everyday(texts, [one.flagged for one in judged]) for rate, judged in by_rate.items()
        }
    if plots:
        curves = {}
        for language, title in measure.LANGUAGES.items():
            own = np.array([sample.language == language for sample in samples], bool)
            curves[title] = (scores[own, -1], np.array([sample.harmful for sample in samples], bool)[own])
        measure.plot_roc(plots / "roc.png", curves)
        measure.plot_categories(plots / "categories.png", found["languages"])
    if json:
        print(dumps(found, ensure_ascii=False))
    else:
        _show(Console(), found)


@app.command("check")
def check(
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    policy: Annotated[Path | None, typer.Option(help="A policy's TOML file; by default Penjing's own.")] = None,
    moderator: Annotated[Path | None, typer.Option(help="A moderator's folder.")] = None,
    where: Annotated[Literal["input", "output", "tool"], typer.Option(help="Whose words.")] = "input",
    json: _Json = False,
) -> None:
    """Ask what a policy does with a text, and why. The exit code is 1 where it is blocked.

    Examples:
    \b
      $ penjing safety check "Call me on 13812345678" --where output
      $ penjing safety check - --policy my-policy.toml --moderator MODERATOR --json < message.txt
    """
    from json import dumps

    from rich.console import Console

    from penjing.serving.safety.moderator import Moderator
    from penjing.serving.safety.policy import Policy

    rules = Policy.read(policy, moderator=Moderator.load(moderator) if moderator else None)
    said = sys.stdin.read() if text == "-" else text
    decision = rules.check(said, where, user="command line")
    rules.close()
    if json:
        fields = {"action": decision.action, "text": decision.text, "message": decision.message, "help": decision.help}
        print(dumps({**fields, "reasons": [reason.to_dict() for reason in decision.reasons]}, ensure_ascii=False))
    else:
        console = Console(highlight=False, markup=False)
        console.print(decision.action)
        for reason in decision.reasons:
            console.print(f"  {reason.action}: {reason}", soft_wrap=True)
        if decision.action in ("redact", "block"):
            console.print(decision.message or decision.text, soft_wrap=True)
    if decision.action == "block":
        raise typer.Exit(1)


def _tagger(folder: Path, data: Path, everyday: Sequence[Path], limit: int) -> dict[str, Any]:
    """How a tagger does on marked texts, and how much of everyday text it would take out."""
    from penjing.serving.safety.everyday import read_texts
    from penjing.serving.safety.pii_agreement import compared, harmless
    from penjing.serving.safety.pii_measure import read_presidio
    from penjing.serving.safety.tagger import Tagger

    tagger = Tagger.load(folder)
    found = compared([tagger], [read_presidio(data)])
    for file in everyday:
        found.setdefault("everyday", {})[str(file)] = harmless(read_texts(file, limit), tagger)
    return found


def _show_tagger(console: "Console", found: dict[str, Any]) -> None:
    """The measurements as tables."""
    from rich.table import Table

    for name, of in found["by_finder"].items():
        title = f"{'rules and tagger' if name == 'tagger' else 'rules alone'}: {found['texts']:,} texts"
        table = Table(title=title, title_justify="left")
        for column in ("", "precision", "recall", "F1", "marked"):
            table.add_column(column)
        rows = {"any kind": of["any_kind"], "right kind": of["typed"], "exact": of["exact"], **of["by_kind"]}
        for label, one in rows.items():
            shares = (f"{one[part]:.3f}" for part in ("precision", "recall", "f1"))
            table.add_row(label, *shares, f"{one['marked']:,}")
        console.print(table)
    for file, of in found.get("everyday", {}).items():
        told = f"{of['touched']:.1%} of {of['texts']:,} texts touched, {of['per_1000_words']:.2f} finds in 1,000 words"
        console.print(f"{Path(file).name}: {told}", soft_wrap=True, highlight=False)


def _show(console: "Console", found: dict[str, Any]) -> None:
    """The measurements as tables."""
    from rich.table import Table

    def share(one: dict[str, float]) -> str:
        return f"{one['share']:.1%} ({one['low']:.1%} to {one['high']:.1%})" if one.get("of", 1) else "-"

    for of in found["languages"].values():
        title = f"{of['language']}: {of['texts']:,} texts of the {found['split']} split, {of['harmful']:,} harmful; "
        table = Table(title=title + f"area under the curve {of['area']:.3f}", title_justify="left")
        for column in ("", "recall", "false positives"):
            table.add_column(column)
        table.add_row("at exactly 10 %", share(of["recall_at_10_percent"]), "10.0%")
        for rate, both in of["by_threshold"].items():
            name = f"threshold for {float(rate):.1%}"
            table.add_row(name, share(both["recall"]), share(both["false_positives"]))
        for name, both in of["by_category"].items():
            table.add_row(f"  {name} ({both['recall']['of']})", share(both["recall"]), share(both["false_positives"]))
        for name, both in of["by_source"].items():
            table.add_row(f"  from {name}", share(both["recall"]), share(both["false_positives"]))
        console.print(table)
    for file, rates in found.get("everyday", {}).items():
        told = "; ".join(f"{share(one)} at the threshold for {float(rate):.0%}" for rate, one in rates.items())
        console.print(f"{Path(file).name}: {told} are flagged", soft_wrap=True, highlight=False)
