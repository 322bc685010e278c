"""`penjing data judge` and `penjing data revise`: preferences out of a model's feedback on answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.commands._loading import CHAT_MODEL_HELP, Device, Precision

if TYPE_CHECKING:
    from penjing.alignment.asking import Asker
    from penjing.alignment.feedback import Report

Prompts = Annotated[
    str,
    typer.Argument(help="Conversations: a file, folder, pattern or address. They end with the user's last message."),
]
Answering = Annotated[str, typer.Option("--model", help=CHAT_MODEL_HELP)]
MaxTokens = Annotated[int, typer.Option(help="Tokens of an answer; a longer one is left out.")]
Seed = Annotated[int, typer.Option(help="The same seed makes the same set.")]
Limit = Annotated[int | None, typer.Option(help="So many prompts at most.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]


def judge(
    prompts: Prompts,
    model: Answering,
    judge: Annotated[
        str | None, typer.Option(help="Another model to judge, as of --model; by default the same.")
    ] = None,
    principles: Annotated[Path | None, typer.Option(help="What answers should be like: a file, one a line.")] = None,
    answers: Annotated[int, typer.Option(help="Answers to each prompt; every two are compared.")] = 2,
    out: Annotated[Path, typer.Option(help="The JSON-lines file of preferences to write.")] = Path("judged.jsonl"),
    temperature: Annotated[float, typer.Option(help="How freely the model answers.")] = 1.0,
    max_tokens: MaxTokens = 512,
    limit: Limit = None,
    seed: Seed = 1,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Draw answers and let a model judge them, in both orders: preferences for DPO or a reward model (RLAIF).

    A pair on which the judge goes by the place makes no preference; how often it does is told. Stopped, even killed,
    the same command goes on.

    Examples:
    \b
      $ penjing data judge questions.jsonl --model runs/tiny-chat/chat/model --judge hf:Qwen/Qwen3-0.6B
      $ penjing data judge questions.jsonl --model hf:Qwen/Qwen3-0.6B --principles principles.txt --answers 4
      $ penjing data judge questions.jsonl --model runs/tiny-chat/chat/model --judge openai:http://127.0.0.1:8000/v1
    """
    from penjing.alignment.constitution import read_principles
    from penjing.alignment.feedback import judged_answers
    from penjing.alignment.judge import Judge

    words = read_principles(principles) if principles else ()
    ask = _asker(model, temperature, max_tokens, seed, device, precision)
    judging = _asker(judge, 0.0, max_tokens, seed, device, precision, ask if judge in (None, model) else None)
    with _progress() as show:
        report = judged_answers(
            _prompts(prompts, limit), ask, Judge(judging, words), out, answers=answers, progress=show
        )
    _tell(report, out, json)


def revise(
    prompts: Prompts,
    model: Answering,
    principles: Annotated[Path, typer.Option(help="What answers should be like: a file, one principle a line.")],
    rounds: Annotated[int, typer.Option(help="How often an answer is revised, each time by another principle.")] = 1,
    instructions: Annotated[
        bool, typer.Option("--instructions/--preferences", help="Write revisions to tune on, or over their drafts.")
    ] = False,
    out: Annotated[Path, typer.Option(help="The JSON-lines file to write.")] = Path("revised.jsonl"),
    temperature: Annotated[float, typer.Option(help="How freely the model writes.")] = 0.7,
    max_tokens: MaxTokens = 512,
    limit: Limit = None,
    seed: Seed = 1,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Let a model find fault with its answers by principles, and write better ones (constitutional revision).

    Stopped, even killed, the same command goes on.

    Examples:
    \b
      $ penjing data revise questions.jsonl --model hf:Qwen/Qwen3-0.6B --principles principles.txt
      $ penjing data revise questions.jsonl --model runs/tiny-chat/chat/model --principles p.txt --instructions
    """
    from penjing.alignment.constitution import Constitution, read_principles
    from penjing.alignment.feedback import revised_answers
    from penjing.errors import ConfigError

    if rounds < 1:
        raise ConfigError(f"--rounds is {rounds}; it must be 1 or more")
    words = read_principles(principles)
    ask = _asker(model, temperature, max_tokens, seed, device, precision)
    with _progress() as show:
        report = revised_answers(
            _prompts(prompts, limit),
            Constitution(words, ask, rounds),
            out,
            records="instructions" if instructions else "preferences",
            progress=show,
        )
    _tell(report, out, json)


def _asker(
    model: str | None,
    temperature: float,
    max_tokens: int,
    seed: int,
    device: str,
    precision: str,
    same: "Asker | None" = None,
) -> "Asker":
    """Who is asked; `same` is asked again, in other settings, where it is the same model."""
    from penjing.alignment.asking import Asker
    from penjing.commands._loading import chat_model
    from penjing.inference.sampling import Sampling

    sampling = Sampling(temperature=temperature, max_new_tokens=max_tokens)
    if same is not None:
        return Asker(same.model, sampling, seed)
    assert model
    return Asker(chat_model(model, device, precision), sampling, seed)


def _prompts(path: str, limit: int | None) -> Iterator[tuple[str, Any]]:
    from itertools import islice

    from penjing.alignment.feedback import prompts_of
    from penjing.data import conversations

    return islice(prompts_of(conversations.read(path)), limit)


@contextmanager
def _progress() -> "Iterator[Callable[[Report], None]]":
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=None)
        yield lambda report: bar.update(task, description=f"{report.prompts:,} prompts, {report.records:,} records")


def _tell(report: "Report", out: Path, json: bool) -> None:
    import json as json_format

    if json:
        typer.echo(json_format.dumps(report.to_dict(), ensure_ascii=False))
        return
    typer.echo(f"{out}: {report.records:,} records of {report.prompts:,} prompts")
    votes = report.counts["votes"]
    for name, count in report.counts.items():
        if count and name not in ("votes", "votes for A"):
            typer.echo(f"  {name}: {count:,}")
    if votes:
        typer.echo(f"  the first answer shown was preferred in {report.counts['votes for A'] / votes:.0%} of the votes")
