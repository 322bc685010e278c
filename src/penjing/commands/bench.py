"""`penjing bench generate MODEL`: how fast a model answers on this machine, beside what its memory allows."""

from typing import Annotated

import typer

from penjing.commands._loading import Device, Model, Precision, load_network

app = typer.Typer(help="Measure this machine with a model.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Commands that measure."""


@app.command("generate")
def generate(
    model: Model,
    requests: Annotated[list[int] | None, typer.Option(help="Texts at once; repeatable.")] = None,
    prompt: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 128,
    new: Annotated[int, typer.Option(help="Tokens to generate for each.")] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds, of which medians are taken.")] = 3,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Time to first token, time between tokens, tokens a second, and their share of what the memory allows.

    Examples:
    \b
      $ penjing bench generate runs/tiny-chat/chat/model
      $ penjing bench generate MODEL --requests 1 --requests 16 --prompt 512
      $ penjing bench generate MODEL --precision bf16 --json
    """
    from json import dumps

    from rich.console import Console
    from rich.table import Table

    from penjing.inference.bench import as_json, limit, measure
    from penjing.inference.blocks import compile_seconds

    network = load_network(model, device, precision)
    ceiling = limit(network, prompt, new)
    results = [measure(network, count, prompt, new, rounds) for count in requests or (1, 4, 16)]
    dtype = str(network.embedding.weight.dtype).removeprefix("torch.")
    compiling = compile_seconds.get(network.embedding.weight.dtype)
    if json:
        found = {"dtype": dtype, "limit": as_json(ceiling), "results": [as_json(r) for r in results]}
        typer.echo(dumps({**found, "compile_seconds": compiling}))
        return
    console = Console()
    megabytes = (ceiling.weight_bytes + ceiling.cache_bytes) / 1e6
    console.print(
        f"{dtype}: a token reads {megabytes:,.1f} MB (weights {ceiling.weight_bytes / 1e6:,.1f}), the memory gives "
        f"{ceiling.read_gb_per_s:.1f} GB/s: at most {ceiling.tokens_per_second:,.0f} tokens/s for one text",
        highlight=False,
    )
    table = Table("texts", "first token", "between tokens", "tokens/s", "decoding", "share of the limit", box=None)
    for result in results:
        share = f"{result.decoding_tokens_per_second / ceiling.tokens_per_second:.0%}" if result.requests == 1 else ""
        table.add_row(
            str(result.requests),
            f"{1000 * result.time_to_first_token:,.1f} ms",
            f"{1000 * result.inter_token_latency:,.2f} ms",
            f"{result.tokens_per_second:,.0f}",
            f"{result.decoding_tokens_per_second:,.0f}",
            share,
        )
    console.print(table)
    if compiling is not None:
        console.print(
            f"the kernel for one text took {compiling:.1f} s to compile or, once compiled, to load", highlight=False
        )
