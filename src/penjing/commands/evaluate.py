"""`penjing eval MODEL`: how well a model predicts texts, and what it can do."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.commands._loading import Device, Model, Precision, TokenizerSource, load

if TYPE_CHECKING:
    from penjing.evaluation.skills import SkillReport


def evaluate(
    model: Model,
    data: Annotated[
        str | None, typer.Option(help="Texts to predict: a file (txt, md, jsonl, parquet, ...) or a folder.")
    ] = None,
    skills: Annotated[bool, typer.Option("--skills", help="Ask the held-out items of the generated world.")] = False,
    items: Annotated[int, typer.Option(help="Items of each skill and language.")] = 40,
    base: Annotated[
        bool | None,
        typer.Option("--base/--chat", help="Ask as plain text, or by the chat template where there is one."),
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens in the sliding window; by default the model's.")] = None,
    stride: Annotated[int | None, typer.Option(help="How far it slides; by default half of it.")] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    tokenizer_source: TokenizerSource = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Measure a model: perplexity and bits per byte of texts, accuracy on the world's held-out items, or both.

    Without --data the skills are measured.

    Examples:
    \b
      $ penjing eval runs/tiny-chat/chat/model --skills
      $ penjing eval MODEL --data my-texts/ --stride 128 --json
    """
    import json as json_format

    from rich.console import Console

    network, tokenizer = load(model, device, precision, tokenizer_source)
    console = Console(stderr=json, highlight=False, markup=False, emoji=False)  # names are shown as they are
    result: dict[str, Any] = {"model": model}
    if data is not None:
        from penjing.data.corpus import documents
        from penjing.evaluation import perplexity

        found = perplexity.evaluate(network, tokenizer, documents(data), context=context, stride=stride)
        result["text"] = {"data": data, **found.to_dict()}
        console.print(
            f"{data}: {found.bits_per_byte:.4f} bits per byte, perplexity {found.perplexity:.3f}, "
            f"{found.nats_per_token:.4f} nats a token\n({found.documents:,} documents, {found.tokens:,} tokens, "
            f"{found.bytes:,} bytes)",
            soft_wrap=True,
        )
    if skills or data is None:
        report = _measure_skills(network, tokenizer, items, base, console)
        result["skills"] = report.to_dict()
        _show_skills(report, console)
    if json:
        typer.echo(json_format.dumps(result, ensure_ascii=False))


def _measure_skills(network: Any, tokenizer: Any, items: int, base: bool | None, console: Any) -> "SkillReport":
    from rich.progress import Progress

    from penjing.evaluation.skills import evaluate as evaluate_skills

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("asking", total=None)
        return evaluate_skills(
            network,
            tokenizer,
            items_per_skill=items,
            base=base,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _show_skills(report: "SkillReport", console: Any) -> None:
    from rich.table import Table

    languages = list(dict.fromkeys(language for _, language in report.shares))
    table = Table("skill", *languages, "both", "95 %", "chance", box=None)

    def row(name: str, **choice: Any) -> None:
        share = report.of(**choice)
        low, high = share.interval
        of_each = [f"{report.of(language=language, **choice).accuracy:.0%}" for language in languages]
        table.add_row(name, *of_each, f"{share.accuracy:.0%}", f"{low:.0%} to {high:.0%}", f"{share.chance:.0%}")

    for name in dict.fromkeys(skill for skill, _ in report.shares):
        row(name + (" (easier half)" if name in report.easier else ""), skill=name)
    row("easier half", easy=True)
    row("all")
    console.print(table)
