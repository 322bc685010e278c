"""`penjing convert IN OUT`: any model that Penjing reads, in another format."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from penjing.commands._loading import MODEL_HELP

if TYPE_CHECKING:
    import torch


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help=MODEL_HELP)],
    target: Annotated[
        str, typer.Argument(metavar="OUT", help="A folder, a .gguf file, or a .bin file as llama2.c reads it.")
    ],
    tokenizer: Annotated[
        str | None, typer.Option(help="The tokenizer's file or folder, or hf:org/name, when it is not with the model.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; by default as it is stored.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="How a .gguf file stores weights: f16 (the default), bf16, f32 or q8_0.")
    ] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(help="The most that a weights file of a folder holds, such as 500MB; 5GB by default.")
    ] = None,
) -> None:
    """Turn a model into another format: a Hugging Face folder (transformers, vLLM), GGUF (llama.cpp), llama2.c.

    OUT's ending says which. An older model there is replaced, once the new one is whole.

    Examples:
    \b
      $ penjing convert runs/tiny-chat/chat/model small --dtype bf16
      $ penjing convert runs/tiny-chat/chat/model small.gguf --quantization q8_0
      $ penjing convert stories260K.bin stories260K
      $ penjing convert out/ckpt.pt mine --tokenizer hf:openai-community/gpt2
      $ penjing convert hf:Qwen/Qwen3-0.6B qwen --max-shard-size 1GB
    """
    import penjing
    from penjing.errors import ConfigError, nearest
    from penjing.models.formats import check_target, read_generation
    from penjing.models.gguf.model import QUANTIZATIONS

    wanted = dtype_named(dtype)
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise ConfigError(f"there is no GGUF quantization '{quantization}'" + nearest(quantization, QUANTIZATIONS))
    size = None if max_shard_size is None else bytes_of(max_shard_size)
    check_target(target, max_shard_size=size, quantization=quantization)
    model, found = penjing.load(source, tokenizer=tokenizer, dtype=wanted)
    generation = read_generation(source)
    penjing.save(target, model, found, generation=generation, max_shard_size=size, quantization=quantization)
    typer.echo(f"{target}: {model.parameter_count():,} weights")


def dtype_named(name: str | None) -> "torch.dtype | None":
    """What fp32, bf16 or fp16 means.

    Raises:
        ConfigError: there is no such dtype.
    """
    from penjing.errors import ConfigError, nearest

    names = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    if name is None:
        return None
    if name not in names:
        raise ConfigError(f"there is no dtype '{name}'" + nearest(name, names))
    import torch

    return getattr(torch, names[name])


def bytes_of(size: str) -> int:
    """The number of bytes that a text such as 5GB means; KB, MB and GB are powers of 1,000, KiB to GiB of 1,024.

    >>> bytes_of("1.5MB")
    1500000

    Raises:
        ConfigError: the text is no size.
    """
    from penjing.errors import ConfigError

    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([KMGT]?)(i?)B?", size.strip(), re.IGNORECASE | re.ASCII)
    if found is None or (found[3] and not found[2]):
        raise ConfigError(f"'{size}' is no size; write a number of bytes, or one with KB, MB or GB, such as 5GB")
    unit, power = 1024 if found[3] else 1000, " KMGT".index(found[2].upper() or " ")
    return int(float(found[1]) * unit**power)
