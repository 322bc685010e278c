"""`penjing bench generate|train`: how fast a model answers and trains on this machine, beside what that allows."""

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


@app.command("train")
def train(
    family: Annotated[str, typer.Option(help="gpt2, llama or qwen3.")] = "llama",
    width: Annotated[int, typer.Option(help="Numbers of a token's vector.")] = 256,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 6,
    heads: Annotated[int, typer.Option(help="Heads of attention.")] = 4,
    kv_heads: Annotated[int | None, typer.Option(help="Heads of keys and values; as many by default.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width inside the MLP; the family's usual one by default.")] = None,
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 4096,
    context: Annotated[int, typer.Option(help="Tokens of a row.")] = 256,
    rows: Annotated[int, typer.Option(help="Rows of a batch.")] = 16,
    optimizer: Annotated[str, typer.Option(help="adamw or muon.")] = "adamw",
    steps: Annotated[int, typer.Option(help="Steps that are timed, of which the median is taken.")] = 10,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the blocks with torch.compile.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Tokens a second, operations a second, their share of a matrix product's rate (MFU), and where the rest goes.

    The weights and the text are random: neither changes the time.

    Examples:
    \b
      $ penjing bench train
      $ penjing bench train --family qwen3 --width 512 --layers 8 --heads 8 --optimizer muon
      $ penjing bench train --family gpt2 --width 768 --layers 12 --heads 12 --vocab 50304 --context 1024 --compile
      $ penjing bench train --precision bf16 --json
    """
    from dataclasses import asdict
    from json import dumps

    from pydantic import ValidationError
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from penjing.device import choose_device, choose_precision, device_name
    from penjing.errors import ConfigError, nearest
    from penjing.stages.settings import Model as Shape
    from penjing.training.adamw import AdamW
    from penjing.training.bench import measure
    from penjing.training.muon import Muon

    optimizers: dict[str, AdamW.Config | Muon.Config] = {"adamw": AdamW.Config(), "muon": Muon.Config()}
    if optimizer not in optimizers:
        raise ConfigError(f"optimizer is '{optimizer}'{nearest(optimizer, list(optimizers))}")
    if vocab < 1:
        raise ConfigError(f"vocab is {vocab}; it must be at least 1")
    shape = {"width": width, "layers": layers, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}
    try:
        config = Shape.model_validate({"family": family, "context": context, **shape}).config(vocab)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    where = choose_device(device)
    dtype, reason = choose_precision(precision, where)
    console, warm_up = Console(stderr=True), 3
    total = warm_up + steps + 2
    bar = iter(track(range(total), "training", console=console, transient=True, disable=json))
    next(bar)
    speed = measure(
        config,
        rows,
        context,
        optimizers[optimizer],
        device=where,
        dtype=dtype,
        compiled=compiled,
        steps=steps,
        warm_up=warm_up,
        done=lambda: next(bar, None),
    )
    name = str(dtype).removeprefix("torch.")
    if json:
        derived = ("tokens_per_second", "flops", "utilisation", "causal_utilisation")
        rates = {key: getattr(speed, key) for key in derived}
        typer.echo(dumps({"device": device_name(where), "dtype": name, **asdict(speed), **rates}))
        return
    out = Console(highlight=False)
    out.print(f"{device_name(where)}, {name} ({reason})")
    out.print(
        f"{speed.parameters / 1e6:,.1f} million parameters, {speed.tokens:,} tokens a step: "
        f"[bold]{speed.tokens_per_second:,.0f} tokens/s[/bold] (median of {steps} steps, the slowest took "
        f"{speed.slowest / speed.seconds:.2f} times as long)"
    )
    out.print(
        f"{speed.flops_per_token / 1e6:,.1f} million operations a token: {speed.flops / 1e9:,.0f} GFLOP/s, "
        f"[bold]{speed.utilisation:.0%}[/bold] of the {speed.peak / 1e9:,.0f} that a matrix product reaches "
        f"({speed.causal_utilisation:.0%} without the attention that a causal mask leaves out)"
    )
    table = Table("where a step's time goes", "share", box=None)
    for part, share in speed.parts.items():
        table.add_row(part, f"{share:.1%}")
    out.print(table)
