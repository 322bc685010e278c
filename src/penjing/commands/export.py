"""`penjing export RUN_OR_CHECKPOINT OUT`: a model out of a run that goes on, has stopped, or was better before."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_CHECKPOINT",
            help="The folder of a training run (it has checkpoints/ in it), or one checkpoint of it.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="A folder, a .gguf file, or a .bin file as llama2.c reads it.", show_default=False
        ),
    ],
    best: Annotated[
        bool, typer.Option("--best", help="Of a run, the checkpoint with the lowest validation loss, not the newest.")
    ] = False,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; by default fp32, as it is stored.")] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(help="The most that a weights file of a folder holds, such as 500MB; 5GB by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Write a checkpoint as a model of its own: a Hugging Face folder (transformers, vLLM), GGUF (llama.cpp), llama2.c.

    It may have been saved by one process or by many, each its part. A run may be training meanwhile: nothing of it is
    changed. An older model at OUT is replaced, once the new one is whole.

    Examples:
    \b
      $ penjing export runs/tiny-chat/chat small --best --dtype bf16
      $ penjing export runs/small-chat/pretrain newest
      $ penjing export runs/small-chat/pretrain/checkpoints/step-002000 then
      $ penjing export runs/tiny-chat/chat small.gguf --json
    """
    from json import dumps

    from penjing.commands.convert import bytes_of, dtype_named
    from penjing.models.formats import check_target, save

    wanted = dtype_named(dtype)
    size = None if max_shard_size is None else bytes_of(max_shard_size)
    kind = check_target(target, max_shard_size=size)
    from penjing.models.folder import read_generation
    from penjing.training.export import find_checkpoint, refuse_inside, tokenizer_in

    checkpoint = find_checkpoint(Path(source), best, lambda text: typer.echo(text, err=True))
    refuse_inside(Path(target), checkpoint)
    model = checkpoint.language_model(dtype=wanted)
    tokenizer = tokenizer_in(checkpoint.path)
    save(target, model, tokenizer, generation=read_generation(checkpoint.path), max_shard_size=size)
    facts = {
        "out": target,
        "format": kind.name,
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "validation_loss": checkpoint.score,
        "weights": model.parameter_count(),
        "dtype": str(model.embedding.weight.dtype).removeprefix("torch."),
        "tokenizer": tokenizer is not None,
    }
    if json:
        typer.echo(dumps(facts, ensure_ascii=False))
        return
    without = "" if tokenizer else "; the run had no tokenizer, so there is none with it"
    typer.echo(f"{target}: {model.parameter_count():,} weights of step {checkpoint.step:,}{without}")
