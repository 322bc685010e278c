"""`penjing run RECIPE`: from raw text to a model that answers, in one command."""

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

_QUESTIONS = {
    "en": ["Hello! My name is Oliver.", "What is my name?"],
    "zh": ["你好！", "苹果是水果吗？"],
}


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see --list) or the path of a .toml file.")] = "",
    data: Annotated[
        str | None, typer.Option(help="Your own text: a file, a folder, or hf:NAME of a Hugging Face dataset.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to put everything; by default runs/RECIPE.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Change a setting; may be repeated.")
    ] = None,
    chat: Annotated[bool, typer.Option(help="Open a chat at the end, when there is a terminal.")] = True,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes that ship with Penjing.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print report.json at the end, and nothing else.")] = False,
) -> None:
    """Run a recipe: train, tune, measure, report, chat.

    A finished stage is reused and an interrupted one goes on, so the same command again costs nothing.

    Examples:
    \b
      $ penjing run tiny-chat
      $ penjing run shakespeare --data my-novel.txt
      $ penjing run tiny-chat --set pretrain.training.minutes=2 --out runs/quick
    """
    import json

    from rich.console import Console

    from penjing.errors import ConfigError
    from penjing.recipe import Recipe, recipe_folder
    from penjing.stages import KINDS
    from penjing.stages.report import write_report

    if list_:
        for file in sorted(recipe_folder().glob("*.toml")):
            typer.echo(f"{file.stem:18} {Recipe.read(file.stem, KINDS).description}")
        return
    if not recipe:
        raise ConfigError("name a recipe, for example: penjing run tiny-chat; penjing run --list shows them all")
    speaks = os.environ.get("RANK", "0") == "0"
    console = Console(stderr=json_, highlight=False, quiet=not speaks)
    chosen = Recipe.read(recipe, KINDS, set_ or [])
    folder = out or Path("runs") / chosen.name
    console.print(f"[bold]{chosen.name}[/bold]  {chosen.description}\n  into {folder}", soft_wrap=True)
    results = _run_together(chosen, folder, data, console)
    if not speaks:
        return
    report = write_report(chosen, folder, results)
    console.print(f"\nThe report: {folder / 'report.md'}", soft_wrap=True)
    if json_:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    _show_scores(console, report)
    instructed = [name for name, stage in chosen.stages.items() if type(stage) is KINDS["instruct"]]
    if instructed and chat and _processes() == 1:
        _talk(console, folder / instructed[-1] / "model", report)


def _processes() -> int:
    """How many processes torchrun has started for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _run_together(recipe: Any, folder: Path, data: str | None, console: Any) -> dict[str, dict[str, Any]]:
    """Runs the stages, with all processes that torchrun has started."""
    from penjing.recipe import Interrupted, digest_of, run_stages

    parallel = recipe.parallel.among(_processes())
    with ExitStack() as stack:
        team = None
        if parallel.world > 1:
            from penjing.training.distributed.team import together

            team = stack.enter_context(together(parallel, digest_of(recipe, data)))
            console.print(f"  on {parallel.world} processes: {parallel}", soft_wrap=True)
        with suppress(Interrupted):
            return run_stages(recipe, folder, data, console, team)
    raise typer.Exit(130)


def _show_scores(console: Any, report: dict[str, Any]) -> None:
    if losses := report.get("losses"):
        console.print(
            f"bits per byte: {losses['bits_per_byte']:.3f}  "
            f"(bigram {losses['bigram']:.2f}, unigram {losses['unigram']:.2f}, uniform {losses['uniform']:.2f})"
        )
    if skills := report.get("skills"):
        base = report["base_skills"]
        console.print(
            f"held-out skills: easier half {skills['easy']:.0%}, all {skills['overall']:.0%}  "
            f"(base model {base['easy']:.0%} and {base['overall']:.0%})"
        )


def _talk(console: Any, folder: Path, report: dict[str, Any]) -> None:
    """A chat on a terminal; three dialogues anywhere else."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        from penjing.commands.chat import chat

        chat(str(folder))
        return
    import penjing
    from penjing.data.world import calculator, dialogue
    from penjing.inference.chat_model import End, Text
    from penjing.inference.local import LocalChatModel
    from penjing.inference.sampling import Sampling

    model, tokenizer = penjing.load(folder)
    assistant = LocalChatModel(model, tokenizer, {"calculator": calculator})
    console.print("\nThere is no terminal here, so here are three dialogues:")
    skills = report.get("skills")
    asked = [_QUESTIONS["en"], _QUESTIONS["zh"]]
    if skills:
        item = dialogue(1, split="heldout", language="en", skill="location")
        asked.append([message["content"] for message in item.prompt if message["role"] == "user"])
    for questions in asked:
        console.print()
        messages: list[Any] = []
        for question in questions:
            messages.append({"role": "user", "content": question})
            console.print(f"  [cyan]you[/cyan]      {question}", soft_wrap=True)
            pieces = list(assistant.stream(messages, Sampling(0.0, max_new_tokens=100)))
            answer = "".join(piece.text for piece in pieces if isinstance(piece, Text))
            console.print(f"  [green]penjing[/green]  {answer}", soft_wrap=True)
            messages += [message for piece in pieces if isinstance(piece, End) for message in piece.messages]
    console.print(f"\nTalk to it:  penjing chat {folder}", soft_wrap=True)
