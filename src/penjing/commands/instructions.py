"""`penjing data inspect` and `penjing data build`: sets of conversations, looked at and made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.commands._loading import CHAT_MODEL_HELP, Device, Precision

if TYPE_CHECKING:
    from penjing.alignment.building import Report, Source
    from penjing.data.inspection import Inspection, Lengths, Noted, Piece
    from penjing.tokenizer import Tokenizer

_BARS = " ▁▂▃▄▅▆▇█"


def inspect(
    path: Annotated[str, typer.Argument(help="Conversations or preferences: a file, folder, pattern or address.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="A model or tokenizer folder, or a tokenizer file: lengths are then in tokens.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model instead: its tokenizer, and its context as --context.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of a row in training: what would be cut or left out.")
    ] = None,
    turns: Annotated[str, typer.Option(help="Which of the assistant's turns training learns: all or last.")] = "all",
    near: Annotated[
        float, typer.Option(help="From which similarity on, 0.5 to 1, conversations are near copies.")
    ] = 0.8,
    sample: Annotated[int, typer.Option(help="Which record is shown as the model reads it; 0: none.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Look at instruction or preference data before training: counts, lengths, languages, copies, odd turns, a sample.

    In the sample, what is learned is green and bold, or stands between ⟦ and ⟧ where there are no colours.

    Examples:
    \b
      $ penjing data inspect alpaca.jsonl
      $ penjing data inspect talks/ --model runs/tiny-chat/chat/model
      $ penjing data inspect pairs.jsonl --tokenizer tokenizer/ --context 512 --json
    """
    import json as json_format

    from rich.console import Console

    from penjing.data.inspection import inspect as look
    from penjing.errors import ConfigError

    if turns not in ("all", "last"):
        raise ConfigError(f"--turns is {turns}; it is all or last")
    if not 0.5 <= near <= 1:
        raise ConfigError(f"--near is {near}; it is a similarity from 0.5 to 1")
    if sample < 0 or (context is not None and context < 1):
        raise ConfigError("--sample is a record's number from 1, or 0 for none; --context is 1 or more")
    encoder, context = _tokenizer(tokenizer, model, context)
    if context is not None and (encoder is None or encoder.chat is None):
        raise ConfigError("--context needs a tokenizer with a chat template: add --tokenizer or --model")
    learned: Any = turns
    found = look(path, encoder, context=context, turns=learned, near=near, sample=sample)
    if json:
        typer.echo(json_format.dumps(found.to_dict(), ensure_ascii=False))
    else:
        _show(Console(highlight=False), path, found)


def build(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Documents (files, folders, addresses), or a file of seed tasks."),
    ],
    model: Annotated[str, typer.Option(help=CHAT_MODEL_HELP)],
    out: Annotated[Path, typer.Option(help="The JSON-lines file to write.")] = Path("instructions.jsonl"),
    seeds: Annotated[
        bool | None,
        typer.Option(
            "--seeds/--documents", help="What the source is; by default seeds if its records have instructions."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="How many records; from seeds 100, from documents all, by default.")
    ] = None,
    questions: Annotated[int, typer.Option(help="Questions about each passage of a document.")] = 2,
    characters: Annotated[int, typer.Option(help="Characters of a passage, about.")] = 1200,
    similar: Annotated[float, typer.Option(help="Leave out questions with a higher ROUGE-L with one there is.")] = 0.7,
    existing: Annotated[
        list[str] | None, typer.Option(help="Conversations whose questions are not to be asked again; repeatable.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="How freely the model writes.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer; a longer one is left out.")] = 512,
    seed: Annotated[int, typer.Option(help="The same seed makes the same set.")] = 1,
    field: Annotated[str, typer.Option(help="Which field of a JSON or parquet document is the text.")] = "text",
    device: Device = "auto",
    precision: Precision = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Let a model make an instruction set: questions about documents, or new tasks like some seed tasks, and answers.

    Questions too like another are left out, and what breaks rules of quality. A record says what it was made from, by
    which words, model and settings. Stopped, even killed, the same command goes on.

    Examples:
    \b
      $ penjing data build notes/ --model runs/tiny-chat/chat/model --out notes.jsonl
      $ penjing data build seed_tasks.jsonl --model hf:Qwen/Qwen3-0.6B --count 500
      $ penjing data build notes/ --model openai:http://127.0.0.1:8000/v1#Qwen/Qwen3-8B
      $ penjing data inspect notes.jsonl --model runs/tiny-chat/chat/model
    """
    import json as json_format

    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from penjing.alignment.asking import Asker
    from penjing.alignment.building import Rules
    from penjing.alignment.building import build as make
    from penjing.commands._loading import chat_model
    from penjing.data import conversations
    from penjing.errors import ConfigError
    from penjing.inference.sampling import Sampling

    for name, value in {
        "--questions": questions,
        "--characters": characters,
        "--count": 1 if count is None else count,
    }.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be 1 or more")
    rules, sampling = Rules(similar=similar), Sampling(temperature=temperature, max_new_tokens=max_tokens)
    source, count = _source(sources, seeds, count, questions, characters, field, seed)
    there = [
        message["content"]
        for path in existing or ()
        for talk in conversations.read(path)
        for message in talk.messages
        if message["role"] == "user"
    ]
    chat = chat_model(model, device, precision)
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=None)

        def show(report: "Report") -> None:
            done, out_of = f"{report.records:,} records", f"{report.left_out.total():,} left out"
            bar.update(task, description=f"{report.units:,} passages or rounds, {done}, {out_of}")

        report = make(source, Asker(chat, sampling, seed), out, count=count, rules=rules, existing=there, progress=show)
    if json:
        typer.echo(json_format.dumps(report.to_dict(), ensure_ascii=False))
        return
    console = Console(highlight=False)
    why = {"count": "as many as asked for", "source": "the documents are through"}.get(report.finished, report.finished)
    console.print(f"{out}: {report.records:,} records of {report.units:,} passages or rounds ({why})", soft_wrap=True)
    for reason, number in report.left_out.most_common():
        console.print(f"  left out: {number:,} {reason}")


def _source(
    sources: list[str], seeds: bool | None, count: int | None, questions: int, characters: int, field: str, seed: int
) -> "tuple[Source, int | None]":
    """What questions come from, and how many records are wanted."""
    from penjing.alignment.from_documents import FromDocuments
    from penjing.alignment.self_instruct import SelfInstruct, are_seeds, seed_tasks
    from penjing.data.corpus import Corpus

    if seeds or (seeds is None and all(are_seeds(source) for source in sources)):
        return SelfInstruct([task for source in sources for task in seed_tasks(source)], seed), count or 100
    return FromDocuments(Corpus(sources, field=field), characters, questions), count


def _tokenizer(tokenizer: str | None, model: str | None, context: int | None) -> "tuple[Tokenizer | None, int | None]":
    """The tokenizer that was named in one of two ways, and the context."""
    from penjing.errors import ConfigError
    from penjing.models.formats import load_tokenizer, read_config
    from penjing.tokenizer import Tokenizer

    if model is None:
        return (None if tokenizer is None else Tokenizer.load(tokenizer)), context
    if tokenizer is not None:
        raise ConfigError("--tokenizer and --model are both given; one is enough")
    config = read_config(model)
    return load_tokenizer(model, config.vocab), config.context if context is None else context


def _show(console: Any, path: str, found: "Inspection") -> None:
    from rich.table import Table

    console.print(f"[bold]{path}[/bold]: {found.records:,} {found.kind}", soft_wrap=True)
    table = Table(f"length in {found.unit}", "count", "mean", "histogram, from 0", box=None)
    for name in ("0%", "5%", "50%", "95%", "100%"):
        table.add_column(name, justify="right")
    rows = {**found.roles, "conversation": found.whole}
    for role, lengths in rows.items():
        if lengths is not None:
            table.add_row(role, *_row(lengths))
    console.print(table)
    console.print("turns: " + ", ".join(f"{count:,} with {turns}" for turns, count in found.turns.items()))
    console.print("languages: " + ", ".join(f"{name} {count:,}" for name, count in found.languages.items()))
    if found.kind == "conversations":
        console.print(_told("copies", found.copies, path), soft_wrap=True)
        console.print(_told("near copies", found.near_copies, path), soft_wrap=True)
        console.print(f"questions that were asked before and answered in another way: {found.same_question:,}")
    for name, count in found.preference.items():
        console.print(f"{name}: {count:,g}")
    if found.rendering is not None:
        from penjing.data.instructions import Rendering

        rows_of = "" if found.context is None else f" in rows of {found.context:,} tokens"
        console.print(f"training{rows_of}: {Rendering(**found.rendering)}", soft_wrap=True)
    for name, noted in found.odd.items():
        console.print(_told(name, noted, path), soft_wrap=True)
    if found.sample:
        console.print()
        console.print(_coloured(found.sample, console.color_system is not None), soft_wrap=True)


def _row(lengths: "Lengths") -> list[str]:
    most = max(lengths.histogram)
    bars = "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in lengths.histogram)
    parts = (f"{lengths.quantiles[part]:,.0f}" for part in ("0%", "5%", "50%", "95%", "100%"))
    return [f"{lengths.count:,}", f"{lengths.mean:,.1f}", bars, *parts]


def _told(name: str, noted: "Noted", path: str) -> str:
    from rich.markup import escape

    examples = "; ".join(example.replace(f"{path}, ", "") for example in noted.examples)
    where = f" ({escape(examples)})" if examples else ""
    return f"{escape(name)}: {noted.count:,}{where}"


def _coloured(sample: "list[Piece]", colours: bool) -> Any:
    """A conversation as a model reads it: what is learned stands out."""
    from rich.text import Text

    text = Text()
    before = False
    for piece in sample:
        if not colours and piece.learned != before:
            text.append("⟦" if piece.learned else "⟧")
        before = piece.learned
        style = "bold green" if piece.learned else "default"
        text.append(piece.text, f"{style} dim" if piece.special and not piece.learned else style)
    return text.append("⟧") if before and not colours else text
