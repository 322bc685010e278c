"""`penjing convert IN OUT`: any model that Penjing reads becomes a Hugging Face folder."""

from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A model folder, or a llama2.c .bin file.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The folder to write.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="The tokenizer's file or folder, when it is not with the model.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; by default as it is stored.")] = None,
) -> None:
    """Turn a model into a Hugging Face folder that transformers, vLLM and llama.cpp's converter open.

    Examples:
    \b
      $ penjing convert stories260K.bin stories260K --tokenizer tok512.bin
      $ penjing convert runs/tiny-chat/chat/model small --dtype bf16
    """
    import penjing
    from penjing.errors import ConfigError, nearest
    from penjing.models.folder import read_generation

    names = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    if dtype is not None and dtype not in names:
        raise ConfigError(f"there is no dtype '{dtype}'" + nearest(dtype, names))
    import torch

    wanted = None if dtype is None else getattr(torch, names[dtype])
    model, found = penjing.load(source, tokenizer=tokenizer, dtype=wanted)
    penjing.save(target, model, found, generation=read_generation(source))
    typer.echo(f"{target}: {model.parameter_count():,} weights")
