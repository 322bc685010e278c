"""`penjing keys`: who may ask a server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penjing.serving.keys import KeyFile

app = typer.Typer(help="API keys of a server: create, list, revoke.", no_args_is_help=True)

File = Annotated[
    Path | None, typer.Option(help="The file of keys; by default penjing/keys.json in your configuration folder.")
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    user: Annotated[
        str | None, typer.Option(help="Whose conversations and limits it has; by default a user of the key's name.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a minute; by default what the server grants.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Requests at once; by default what the server grants.")] = None,
    file: File = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object, for programs.")] = False,
) -> None:
    """Make a key and print it. It is shown this once: the file keeps its hash alone.

    Examples:
    \b
      $ penjing keys create laptop
      $ penjing keys create phone --user ada --rate 60 --concurrent 2
      $ penjing serve MODEL --host 0.0.0.0 --keys ~/.config/penjing/keys.json
    """
    import json as json_format

    keys = _keys(file)
    key, text = keys.create(name, user, rate=rate, concurrent=concurrent)
    if json:
        typer.echo(json_format.dumps({"id": key.id, "name": key.name, "user": key.user, "key": text}))
        return
    typer.echo(text)
    typer.echo(f"for '{key.name}' (user {key.user}), kept as a hash in {keys.path}: copy it now", err=True)


@app.command("list")
def list_(
    file: File = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array, for programs.")] = False,
) -> None:
    """Show the keys there are, not the secrets: nobody can.

    Examples:
    \b
      $ penjing keys list
      $ penjing keys list --file keys.json --json
    """
    import json as json_format
    from dataclasses import asdict
    from datetime import UTC, datetime

    keys = _keys(file)
    found = keys.known()
    if json:
        rows = [{name: value for name, value in asdict(key).items() if name != "hash"} for key in found]
        typer.echo(json_format.dumps(rows))
        return
    if not found:
        typer.echo(f"{keys.path} holds no key; make one with `penjing keys create NAME`")
    for key in found:
        made = datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d")
        limits = [f"{key.rate:g} a minute"] if key.rate is not None else []
        limits += [f"{key.concurrent} at once"] if key.concurrent is not None else []
        state = "revoked" if key.revoked is not None else ", ".join(limits) or "in force"
        typer.echo(f"{key.id}  {key.name:20} {key.user:20} {made}  {state}")


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="The key's id, or its name if no other key in force has it.")],
    file: File = None,
) -> None:
    """Take a key out of force; a running server refuses it from the next second on.

    Examples:
    \b
      $ penjing keys revoke 3f9c01ab
    """
    key = _keys(file).revoke(which)
    typer.echo(f"revoked {key.id} ('{key.name}', user {key.user})")


def _keys(file: Path | None) -> "KeyFile":
    from penjing.serving.keys import KeyFile, default_keys

    return KeyFile(file or default_keys())
