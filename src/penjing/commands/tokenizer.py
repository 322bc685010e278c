"""`penjing tokenizer`: learn a vocabulary, turn text into ids and back, and see what a vocabulary does to text."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Learns a vocabulary; turns text into ids and back; shows what a vocabulary does to text.",
    no_args_is_help=True,
)

_Folder = Annotated[Path, typer.Argument(metavar="TOKENIZER", help="A model or tokenizer folder, or a tokenizer file.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


@app.command("train")
def train(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Text: files, folders, hf:NAME.")],
    out: Annotated[Path, typer.Option(help="The folder for tokenizer.json.")] = Path("tokenizer"),
    vocab: Annotated[int, typer.Option(help="Ids in all: bytes, merges and special tokens.")] = 4096,
    pattern: Annotated[
        str, typer.Option(help="How text is split: gpt2, cl100k, llama3, o200k, qwen, penjing or an expression.")
    ] = "penjing",
    special: Annotated[
        list[str] | None,
        typer.Option(
            help="Special tokens in place of <|endoftext|>, <|im_start|> and <|im_end|>; repeatable. Of these the "
            "first ends documents, the others make the chat template; no other token takes their place."
        ),
    ] = None,
    eos: Annotated[
        str | None,
        typer.Option(
            help="The special token that ends a document, where it is not <|endoftext|> (training needs one)."
        ),
    ] = None,
    field: Annotated[str, typer.Option(help="Which field of a JSON or parquet record is the text.")] = "text",
    errors: Annotated[
        str, typer.Option(help="Bytes that are not UTF-8: strict refuses them, replace reads U+FFFD.")
    ] = ("strict"),
    workers: Annotated[int, typer.Option(help="Threads; 0: one a core.")] = 0,
    json: _Json = False,
) -> None:
    """Learns a byte-level BPE vocabulary from text of any size.

    Examples:
      $ penjing tokenizer train novel.txt --vocab 8000 --out novel-tokenizer
      $ penjing tokenizer train corpus/ more.jsonl.gz --vocab 32000 --pattern cl100k
      $ penjing tokenizer train notes.txt --errors replace
      $ penjing tokenizer train notes.txt --special "<s>" --special "</s>" --eos "</s>"
    """
    import time

    from penjing.data.corpus import Corpus
    from penjing.errors import ConfigError, nearest
    from penjing.tokenizer.special import DEFAULT_SPECIAL_TOKENS
    from penjing.tokenizer.tokenizer import Tokenizer

    if errors not in ("strict", "replace"):
        raise ConfigError(f"--errors is '{errors}'{nearest(errors, ['strict', 'replace'])}")
    started = time.monotonic()
    corpus = Corpus(sources, field=field, errors=errors)
    with _Progress(quiet=json) as progress:
        tokenizer = Tokenizer.train(
            (document.text for document in corpus),
            vocab,
            pattern=pattern,
            special_tokens=tuple(special) if special else DEFAULT_SPECIAL_TOKENS,
            eos=eos,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
        )
    tokenizer.save(out)
    facts = {
        "folder": str(out),
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": tokenizer.special_tokens,
        "eos": tokenizer.eos,
        "seconds": round(time.monotonic() - started, 2),
    }
    if json:
        _print_json(facts)
        return
    typer.echo(f"{out}: {tokenizer.vocab_size} ids, in {facts['seconds']} s")
    if tokenizer.vocab_size < vocab:
        typer.echo(f"fewer than {vocab}: in this text no pair is left to merge")
    typer.echo(f"what it does to text:  penjing tokenizer stats {out}")


@app.command("encode")
def encode(
    tokenizer: _Folder,
    text: Annotated[str | None, typer.Argument(help="The text; without it, --file or standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with the text.")] = None,
    allow_special: Annotated[bool, typer.Option(help="Read special tokens in the text as such.")] = False,
    pieces: Annotated[bool, typer.Option(help="Show each token's text beside its id.")] = False,
    json: _Json = False,
) -> None:
    """Prints the ids of a text.

    Examples:
      $ penjing tokenizer encode runs/tiny-chat/tokenizer "Once upon a time"
      $ penjing tokenizer encode runs/tiny-chat/tokenizer --pieces "从前有座山"
      $ penjing tokenizer encode tokenizer/ --file notes.txt --json
    """
    from penjing.tokenizer.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    ids = loaded.encode(_text(text, file), allow_special=allow_special)
    if json:
        _print_json({"ids": ids, "tokens": [_shown(loaded, number) for number in ids]})
    elif pieces:
        for number in ids:
            typer.echo(f"{number:>7}  {_shown(loaded, number)}")
    else:
        typer.echo(" ".join(map(str, ids)))


@app.command("decode")
def decode(
    tokenizer: _Folder,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids; without them, standard input.")] = None,
    skip_special: Annotated[bool, typer.Option(help="Leave special tokens out.")] = False,
    json: _Json = False,
) -> None:
    """Prints the text of ids, which may be separated by spaces or commas.

    Examples:
      $ penjing tokenizer decode runs/tiny-chat/tokenizer 1041 323 87
      $ penjing tokenizer encode tokenizer/ "hello" | penjing tokenizer decode tokenizer/
    """
    from penjing.commands._text import standard_input
    from penjing.errors import TokenizerError
    from penjing.tokenizer.tokenizer import Tokenizer

    words = " ".join(ids if ids else standard_input().splitlines()).replace(",", " ").strip("[] \n").split()
    try:
        numbers = [int(word) for word in words]
    except ValueError as error:
        raise TokenizerError(f"ids are whole numbers: {error}") from None
    text = Tokenizer.load(tokenizer).decode(numbers, skip_special=skip_special)
    if json:
        _print_json({"text": text})
    else:
        typer.echo(text)


@app.command("stats")
def stats(
    tokenizer: _Folder,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE...]", help="Text; without it, a short story in two languages."),
    ] = None,
    field: Annotated[str, typer.Option(help="Which field of a JSON or parquet record is the text.")] = "text",
    errors: Annotated[str, typer.Option(help="Bytes that are not UTF-8: strict or replace.")] = "strict",
    json: _Json = False,
) -> None:
    """Shows what a vocabulary does to text: bytes per token, script by script, and whose tokens it holds.

    Examples:
      $ penjing tokenizer stats runs/tiny-chat/tokenizer
      $ penjing tokenizer stats tokenizer/ novel.txt papers/ --json
    """
    from penjing.data.corpus import Corpus
    from penjing.tokenizer import statistics
    from penjing.tokenizer.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    if sources:
        texts = (document.text for document in Corpus(sources, field=field, errors=errors))
        used = statistics.usage(loaded, texts)
    else:
        used = statistics.usage(loaded, [statistics.ENGLISH, statistics.CHINESE])
    used["all"] = statistics.total(used.values())
    same = {name: len(loaded.encode(getattr(statistics, name.upper()))) for name in ("english", "chinese")}
    held = statistics.vocabulary(loaded)
    if json:
        by_script = {
            name: {
                "bytes": part.bytes,
                "characters": part.characters,
                "tokens": part.tokens,
                "bytes_per_token": round(part.bytes_per_token, 4),
                "tokens_per_character": round(part.tokens_per_character, 4),
            }
            for name, part in used.items()
        }
        _print_json({"vocab_size": loaded.vocab_size, "text": by_script, "vocabulary": held, "same_story": same})
        return
    _print_stats(loaded.vocab_size, used, held, same)


def _print_stats(vocab_size: int, used: dict[str, Any], held: dict[str, int], same: dict[str, int]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="text", title_justify="left", box=None)
    table.add_column("script")
    for heading in ("bytes", "characters", "tokens", "bytes/token", "tokens/character"):
        table.add_column(heading, justify="right")
    for name, part in used.items():
        table.add_row(
            name,
            f"{part.bytes:,}",
            f"{part.characters:,}",
            f"{part.tokens:,}",
            f"{part.bytes_per_token:.2f}",
            f"{part.tokens_per_character:.2f}",
        )
    console.print(table)
    shares = ", ".join(f"{name} {number:,}" for name, number in held.items())
    console.print(f"\nvocabulary of {vocab_size:,}: {shares}", highlight=False, soft_wrap=True)
    console.print(f"the same story: {same['english']} tokens in English, {same['chinese']} in Chinese", highlight=False)


def _text(text: str | None, file: Path | None) -> str:
    from penjing.commands._text import argument, decoded, standard_input
    from penjing.errors import DataError

    if text is not None and file is not None:
        raise DataError("give either a text or --file, not both")
    if text is not None:
        return argument(text, "the text")
    if file is None:
        return standard_input()
    try:
        return decoded(file.read_bytes(), file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _shown(tokenizer: Any, number: int) -> str:
    """A token as text in quotes; bytes that are no whole character as they are."""
    if tokenizer.is_special(number):
        return str(tokenizer.decode([number]))
    token = tokenizer.token_bytes(number)
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


class _Progress:
    """A progress bar on standard error, where that is a terminal."""

    def __init__(self, *, quiet: bool):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        self._bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, of: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=of or None)
        self._bar.update(self._tasks[what], completed=done, total=of or None)
