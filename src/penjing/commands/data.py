"""`penjing data`: what is done to text before it is learnt from."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.commands import feedback, instructions

if TYPE_CHECKING:
    from penjing.data.cleaning import Report

app = typer.Typer(help="Prepares text to learn from.", no_args_is_help=True)
app.command("inspect")(instructions.inspect)
app.command("build")(instructions.build)
app.command("judge")(feedback.judge)
app.command("revise")(feedback.revise)


@app.callback()
def _group() -> None:
    """Commands on text."""


@app.command("clean")
def clean(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Text: files, folders, patterns, addresses, hf:NAME.")
    ],
    out: Annotated[Path, typer.Option(help="The JSON-lines file to write.")] = Path("clean.jsonl"),
    near: Annotated[float, typer.Option(help="Leave out what is at least so similar to a document before.")] = 0.8,
    least_words: Annotated[int, typer.Option(help="Leave out documents of fewer words.")] = 20,
    copies: Annotated[bool, typer.Option(help="Look for copies and near copies.")] = True,
    quality: Annotated[bool, typer.Option(help="Apply the rules of quality.")] = True,
    personal: Annotated[bool, typer.Option(help="Replace addresses and numbers of people.")] = True,
    field: Annotated[str, typer.Option(help="Which field of a JSON or parquet record is the text.")] = "text",
    errors: Annotated[
        str, typer.Option(help="Bytes that are not UTF-8: strict refuses them, replace reads U+FFFD.")
    ] = "strict",
    workers: Annotated[int, typer.Option(help="Processes; 0: one a core.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Leave out copies, near copies and poor text, and replace personal data.

    One pass, in the order of the documents: of several copies the first stays.

    Examples:
    \b
      $ penjing data clean crawl/ --out clean.jsonl
      $ penjing data clean a.jsonl b.parquet --near 0.9 --no-personal --json
      $ penjing run shakespeare --data clean.jsonl
    """
    import json as json_format

    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from penjing.data.cleaning import Cleaning, Quality, write_clean
    from penjing.data.corpus import Corpus

    cleaning = Cleaning(
        quality=Quality(least_words=least_words) if quality else None,
        exact=copies,
        near=near if copies else None,
        personal=personal,
    )
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(report: "Report") -> None:
            bar.update(task, description=f"{report.read:,} read, {report.kept:,} kept")

        report = write_clean(
            Corpus(sources, field=field, errors=errors),
            out,
            cleaning,
            workers=workers or os.cpu_count() or 1,
            progress=show,
        )
    if json:
        typer.echo(json_format.dumps(report.to_dict(), ensure_ascii=False))
    else:
        _show(Console(highlight=False), report, out)


@app.command("shard")
def shard(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Text: files, folders, patterns, addresses, hf:NAME.")
    ],
    tokenizer: Annotated[str, typer.Option(help="A model or tokenizer folder, or a tokenizer file.")],
    out: Annotated[Path, typer.Option(help="The folder for the shards.")] = Path("shards"),
    validation: Annotated[
        float, typer.Option(help="The share kept for validation: makes train/ and validation/ in the folder.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Which documents are kept for validation.")] = 1,
    field: Annotated[str, typer.Option(help="Which field of a JSON or parquet record is the text.")] = "text",
    errors: Annotated[
        str, typer.Option(help="Bytes that are not UTF-8: strict refuses them, replace reads U+FFFD.")
    ] = "strict",
    workers: Annotated[int, typer.Option(help="How many tokenize at a time; 0: one a core.")] = 0,
    processes: Annotated[
        bool, typer.Option("--processes/--threads", help="Whether the workers are processes, for very many cores.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Turn text of any size into token shards. Stopped, even killed, the same command goes on.

    Examples:
    \b
      $ penjing data shard crawl/ --tokenizer runs/tiny-chat/tokenizer --out crawl-shards
      $ penjing data shard "s3://bucket/web/*.jsonl.gz" --tokenizer tokenizer/ --validation 0.01
    """
    import json as json_format
    import shutil
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from penjing.data import shards
    from penjing.data.corpus import Corpus
    from penjing.errors import ConfigError
    from penjing.tokenizer.tokenizer import Tokenizer
    from penjing.training.lock import only_run_in

    if workers < 0:
        raise ConfigError(f"--workers is {workers}; it must be 0 (one a core) or more")
    corpus, encoder = Corpus(sources, field=field, errors=errors), Tokenizer.load(tokenizer)
    text = corpus.identity()
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    facts: dict[str, dict[str, int]] = {}

    def show(name: str, task: Any, size: int) -> None:
        bar.update(task, description=f"{name} {size / 1e6:,.0f} MB")

    with (
        only_run_in(out.parent / f".{out.name}.lock"),
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
    ):
        parts = (
            zip(("train", "validation"), corpus.split(validation, seed), strict=True) if validation else [("", corpus)]
        )
        for name, documents in parts:
            task = bar.add_task("reading", total=None)
            made = shards.write(
                documents,
                encoder,
                out / name,
                workers=workers or os.cpu_count() or 1,
                processes=processes,
                progress=partial(show, name, task),
                made_of={**text, "part": [name, validation, seed] if validation else None},
            )
            facts[str(out / name)] = {"documents": made.documents, "tokens": made.tokens, "bytes": made.bytes}
    shutil.rmtree(out.parent / f".{out.name}.lock", ignore_errors=True)
    if json:
        typer.echo(json_format.dumps(facts))
    for folder, numbers in () if json else facts.items():
        told = ", ".join(f"{number:,} {what}" for what, number in numbers.items())
        typer.echo(f"{folder}: {told}")


def _show(console: Any, report: "Report", out: Path) -> None:
    from rich.table import Table

    console.print(
        f"{report.kept:,} of {report.read:,} documents kept, {report.characters_kept:,} of "
        f"{report.characters_read:,} characters: {out}",
        soft_wrap=True,
    )
    if report.left_out:
        table = Table("left out", "documents", "for example", box=None)
        for reason, count in report.left_out.most_common():
            table.add_row(reason, f"{count:,}", report.examples[reason][0])
        console.print(table)
    if report.personal:
        console.print("replaced: " + ", ".join(f"{n:,} {kind}" for kind, n in report.personal.most_common()))
