"""The front door: `penjing COMMAND`. Each command is a module in `penjing.commands`; this file only lists them."""

import os
import sys

import typer

from penjing.commands import (
    bench,
    chat,
    conversations,
    convert,
    data,
    doctor,
    evaluate,
    export,
    generate,
    info,
    keys,
    run,
    safety,
    scaling,
    serve,
    tokenizer,
)
from penjing.errors import PenjingError

app = typer.Typer(
    name="penjing",
    help="Penjing (盆景): language models from a byte of text to a chat, small, exact and fast.",
    epilog="Start with:  penjing run tiny-chat",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("chat")(chat.chat)
app.command("generate")(generate.generate)
app.command("eval")(evaluate.evaluate)
app.add_typer(data.app, name="data")
app.add_typer(tokenizer.app, name="tokenizer")
app.command("info")(info.info)
app.command("convert")(convert.convert)
app.command("export")(export.export)
app.add_typer(bench.app, name="bench")
app.add_typer(scaling.app, name="scaling")
app.add_typer(safety.app, name="safety")
app.command("serve")(serve.serve)
app.add_typer(keys.app, name="keys")
app.add_typer(conversations.app, name="conversations")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and leave.", is_eager=True),
) -> None:
    if version:
        from penjing import __version__

        typer.echo(f"penjing {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs the command line: a user's error is a line or two and exit code 2, never a traceback."""
    try:
        app()
    except PenjingError as error:
        who = f"penjing, process {os.environ['RANK']}" if "RANK" in os.environ else "penjing"
        print(f"{who}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as `| head` does
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
