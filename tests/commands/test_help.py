"""What the help says can be typed as it stands."""

import re
import tomllib
from collections.abc import Iterator

import click
import pytest
from typer.main import get_command

from penjing.cli import app
from penjing.recipe import find_recipe


def commands(command: click.Command, name: str = "penjing") -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with their names."""
    yield name, command
    for below, one in getattr(command, "commands", {}).items():
        yield from commands(one, f"{name} {below}")


@pytest.mark.parametrize(("name", "command"), [pytest.param(*pair, id=pair[0]) for pair in commands(get_command(app))])
def test_every_folder_of_a_run_in_the_help_is_one_that_its_recipe_makes(name, command):
    """Oracle: the shipped recipes. `runs/RECIPE/STAGE/model`, or for a tokenizer the stage itself."""
    texts = [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]
    for path in re.findall(r"runs/[\w./-]+/[\w./-]+", "\n".join(texts)):
        recipe, stage, *rest = path.removeprefix("runs/").split("/")
        table = tomllib.loads(find_recipe(recipe).read_text(encoding="utf-8"))
        kind = table[stage].get("kind", stage)
        assert (kind, rest) in [
            ("tokenizer", []),
            ("pretrain", []),
            ("pretrain", ["model"]),
            ("pretrain", ["checkpoints", "step-002000"]),
            ("instruct", []),
            ("instruct", ["model"]),
            ("ladder", ["points.csv"]),
            ("moderation", ["model"]),
        ], path


def test_there_are_such_folders_in_the_help():
    """The test above has something to look at."""
    helps = {name: command.help or "" for name, command in commands(get_command(app))}
    for name in ("chat", "eval", "generate", "info", "convert", "export", "tokenizer encode", "tokenizer decode"):
        assert "runs/" in helps[f"penjing {name}"]
