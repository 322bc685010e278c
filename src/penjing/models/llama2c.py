"""Models of llama2.c: one `.bin` file with a header of seven numbers and the weights in float32.

    int32  width, hidden, layers, heads, kv_heads, vocab, context       vocab is negative when the head is not tied
    float  embedding, then for all layers: attention norms, query, key, value, output, mlp norms, gate, down, up,
           the final norm, context x head_dim / 2 cosines and as many sines (unused), the head when it is not tied

llama2.c turns pairs of neighbours (2 k, 2 k + 1) of a head; we turn (k, k + head_dim / 2), as transformers does. The
rows of the query and key weights are reordered to match.

Source: Karpathy, llama2.c, `run.c` (the layout that its `export.py` calls version 0).
"""

import struct
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from penjing.errors import CheckpointError
from penjing.models.families.family import MAX_LAYERS
from penjing.models.language_model import LanguageModel
from penjing.models.weights import fill
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU

HEADER = struct.Struct("<7i")
LARGEST = 1_000_000  # no number of a sound header is larger


def load_model(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> LanguageModel:
    """The model of a `.bin` file.

    Raises:
        CheckpointError: it is not such a file, or it is cut short or too long.
    """
    config = read_config(path)
    layout = _layout(config)
    counted = sum(int(np.prod(shape)) for _, shape in layout)
    size = path.stat().st_size
    if size != HEADER.size + 4 * counted:
        raise CheckpointError(
            f"{path} has {size} bytes, but its header asks for {HEADER.size + 4 * counted}; "
            "it is cut short or no llama2.c model"
        )
    with torch.device("meta"):
        model = config.build()
    numbers = np.fromfile(path, dtype="<f4", offset=HEADER.size)
    weights = _name(numbers, layout, config)
    fill(model, {name: weight.to(device=device, dtype=dtype or weight.dtype) for name, weight in weights.items()})
    return model.eval()


def tokenizer_beside(path: Path, vocab: int) -> Path:
    """The tokenizer that llama2.c puts beside a model: `tok512.bin` for a vocabulary of 512, else `tokenizer.bin`.

    Raises:
        CheckpointError: there is neither.
    """
    for name in (f"tok{vocab}.bin", "tokenizer.bin"):
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise CheckpointError(f"{path} has no tokenizer beside it (tok{vocab}.bin or tokenizer.bin); say where it is")


def read_config(path: Path) -> LanguageModel.Config:
    """What the model in a `.bin` file is, by its header."""
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise CheckpointError(f"{path} is too short for a llama2.c model")
    width, hidden, layers, heads, kv_heads, vocab, context = HEADER.unpack(header)
    sizes = (width, hidden, layers, heads, kv_heads, abs(vocab), context)
    possible = min(sizes) >= 1 and max(sizes) <= LARGEST and layers <= MAX_LAYERS
    if not possible or width % heads or heads % kv_heads or (width // heads) % 2:
        raise CheckpointError(f"{path} is no llama2.c model: its header says {sizes}")
    norm = RMSNorm.Config(eps=1e-5)
    mixer = Attention.Config(heads=heads, kv_heads=kv_heads, rope=Rope.Config())
    block = Block.Config(mixer=mixer, mlp=SwiGLU.Config(hidden), norm=norm)
    return LanguageModel.Config(
        vocab=abs(vocab), width=width, layers=(block,) * layers, context=context, norm=norm, tied=vocab > 0
    ).resolved()


def _layout(config: LanguageModel.Config) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of each part of the file in order; `{i}` marks those of which each layer has one."""
    block = config.layers[0]
    attention, mlp = cast(Attention.Config, block.mixer), cast(SwiGLU.Config, block.mlp)
    layers, width, hidden = len(config.layers), config.width, mlp.hidden
    head_dim = width // attention.heads
    kv_width = head_dim * (attention.kv_heads or attention.heads)
    rotation = (config.context, head_dim // 2)
    return [
        ("embedding.weight", (config.vocab, width)),
        ("blocks.{i}.mixer_norm.weight", (layers, width)),
        ("blocks.{i}.mixer.query.weight", (layers, width, width)),
        ("blocks.{i}.mixer.key.weight", (layers, kv_width, width)),
        ("blocks.{i}.mixer.value.weight", (layers, kv_width, width)),
        ("blocks.{i}.mixer.output.weight", (layers, width, width)),
        ("blocks.{i}.mlp_norm.weight", (layers, width)),
        ("blocks.{i}.mlp.gate.weight", (layers, hidden, width)),
        ("blocks.{i}.mlp.down.weight", (layers, width, hidden)),
        ("blocks.{i}.mlp.up.weight", (layers, hidden, width)),
        ("norm.weight", (width,)),
        ("cosines", rotation),
        ("sines", rotation),
        *([] if config.tied else [("head.weight", (config.vocab, width))]),
    ]


def _name(
    numbers: np.ndarray, layout: list[tuple[str, tuple[int, ...]]], config: LanguageModel.Config
) -> dict[str, Tensor]:
    head_dim = config.width // cast(Attention.Config, config.layers[0].mixer).heads
    weights: dict[str, Tensor] = {}
    start = 0
    for name, shape in layout:
        end = start + int(np.prod(shape))
        tensor = torch.from_numpy(numbers[start:end].reshape(shape).astype(np.float32))
        start = end
        if name in ("cosines", "sines"):
            continue
        if "{i}" not in name:
            weights[name] = tensor
            continue
        for layer, weight in enumerate(tensor):
            paired = name.endswith(("query.weight", "key.weight"))
            weights[name.replace("{i}", str(layer))] = _unpair(weight, head_dim) if paired else weight.clone()
    return weights


def _unpair(weight: Tensor, head_dim: int) -> Tensor:
    """Rows (0 1)(2 3)(4 5) of each head to 0 2 4 1 3 5."""
    rows = weight.view(-1, head_dim // 2, 2, weight.shape[1])  # (heads, pairs, 2, width)
    return rows.transpose(1, 2).reshape(weight.shape)
