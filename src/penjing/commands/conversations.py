"""`penjing conversations`: what a server keeps of conversations, out and in again, and what their thumbs say."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penjing.serving.conversations import Store

app = typer.Typer(help="Conversations that a server keeps: list, export, import, feedback.", no_args_is_help=True)

Place = Annotated[
    str | None,
    typer.Option(
        "--conversations",
        help="Where they are kept: a file, or postgresql://...; by default where `penjing serve` keeps them.",
        show_default=False,
    ),
]
User = Annotated[str, typer.Option(help="Whose; without API keys a server's only user is 'local'.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command("list")
def list_(
    query: Annotated[str, typer.Argument(help="Words; each must be in the title or in a message.")] = "",
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=200)] = 50,
    conversations: Place = None,
    user: User = "local",
    json: Json = False,
) -> None:
    """Show conversations, those last changed first; or those that words are found in.

    Examples:
    \b
      $ penjing conversations list
      $ penjing conversations list "盆景 watering" --user ada
    """
    import json as json_format
    from datetime import UTC, datetime

    with _store(conversations) as store:
        found, more = store.page(user, query=query, limit=limit)
    if json:
        typer.echo(json_format.dumps([vars(one) for one in found], ensure_ascii=False))
        return
    for one in found:
        when = datetime.fromtimestamp(one.updated, UTC).astimezone()
        typer.echo(f"{one.id}  {when:%Y-%m-%d %H:%M}  {one.title or '(no title)'}")
    if not found:
        typer.echo(f"there are no conversations of the user '{user}'{' with these words' * bool(query)}", err=True)
    elif more:
        typer.echo("there are more; see --limit", err=True)


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="The file to write: .json, .sharegpt.json or .md.")],
    id: Annotated[
        list[str] | None, typer.Option(help="A conversation; repeatable. By default all.", show_default=False)
    ] = None,
    conversations: Place = None,
    user: User = "local",
) -> None:
    """Write conversations into a file.

    JSON holds all branches and everything that is known; ShareGPT and Markdown (one conversation) hold the branch that
    is shown. ShareGPT is what `penjing run` can be tuned on.

    Examples:
    \b
      $ penjing conversations export backup.json
      $ penjing conversations export chats.sharegpt.json --user ada
      $ penjing conversations export penjing.md --id 0123456789abcdef0123456789abcdef
    """
    from penjing.files import atomic_file
    from penjing.serving.conversations import transfer

    form = transfer.form_of(out.name)
    with _store(conversations) as store:
        several = [store.get(user, one) for one in id] if id else store.all_of(user)
    text = transfer.write(several, form)
    with atomic_file(out) as temporary:
        temporary.write_bytes(text.encode())
    typer.echo(f"{out}: {len(several):,} conversation{'s' * (len(several) != 1)}")


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Files: Penjing's JSON, ShareGPT, OpenAI's messages, Markdown.")],
    conversations: Place = None,
    user: User = "local",
) -> None:
    """Read conversations from files, each file as a whole or not at all.

    Examples:
    \b
      $ penjing conversations import backup.json
      $ penjing conversations import sharegpt.jsonl penjing.md --user ada
    """
    from penjing.errors import DataError
    from penjing.serving.conversations import transfer
    from penjing.serving.conversations.errors import ConversationError

    with _store(conversations) as store:
        for file in files:
            try:
                data = file.read_bytes()
            except OSError as fault:
                raise DataError(f"{file} cannot be read: {fault.strerror}") from None
            try:
                made = store.add_all(user, transfer.read(data))
            except ConversationError as fault:
                raise DataError(f"{file}: {fault}; nothing of it was stored") from None
            typer.echo(f"{file}: {len(made):,} conversation{'s' * (len(made) != 1)}")


@app.command("feedback")
def feedback(
    out: Annotated[Path, typer.Argument(help="The .jsonl file to write.")],
    alone: Annotated[
        bool, typer.Option("--alone/--pairs", help="Each reply by itself (KTO), or pairs of replies (DPO).")
    ] = False,
    conversations: Place = None,
    user: User = "local",
) -> None:
    """Write thumbs as preference data.

    A pair is two replies to one message, one liked and one not. With --alone each reply is there with its thumb.

    Examples:
    \b
      $ penjing conversations feedback preferences.jsonl
      $ penjing conversations feedback judged.jsonl --alone --user ada
    """
    import json as json_format

    from penjing.files import atomic_file
    from penjing.serving.conversations import preferences

    number = 0
    with _store(conversations) as store, atomic_file(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in preferences.exported(store, user, "judged" if alone else "pairs"):
            file.write(json_format.dumps(record, ensure_ascii=False) + "\n")
            number += 1
    typer.echo(f"{out}: {number:,} {'judged replies' if alone else 'pairs'}")


@contextmanager
def _store(place: str | None) -> "Iterator[Store]":
    from penjing.serving.conversations import Store, default_path

    store = Store.open(place or default_path())
    try:
        yield store
    finally:
        store.close()
