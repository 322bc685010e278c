"""GGUF models in and out.

A loaded model has one dtype: what is asked for, else that of the file's embedding; where that is quantized, bfloat16.
(Rounding to bfloat16 adds at most half of what quantizing to Q8_0 had already lost, and far less to the other types.)

A written one has its matrices in F16, BF16, F32 or Q8_0; a matrix whose rows are no multiple of 32 numbers is F16
instead of Q8_0. Norms, biases and position vectors are F32, as llama.cpp wants them.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from penjing.errors import CheckpointError, ConfigError, nearest
from penjing.models.folder import named
from penjing.models.gguf import config, file
from penjing.models.gguf.file import GGUF, Entry, Outgoing
from penjing.models.gguf.names import Architecture
from penjing.models.gguf.quants import BF16, F16, F32, Q8_0, Format
from penjing.models.gguf.rope import FACTORS
from penjing.models.language_model import LanguageModel
from penjing.models.weights import FLOATS, Held, fill, stream_weights

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer

QUANTIZATIONS = {"f16": (F16, 1), "bf16": (BF16, 32), "f32": (F32, 0), "q8_0": (Q8_0, 7)}
"""What a file can be written in, and llama.cpp's number for such a file."""


def load_model(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> LanguageModel:
    """The model in a GGUF file, ready for inference.

    The file is mapped; each tensor is dequantized by itself, so that loading takes the memory of the model and of one
    tensor.

    Args:
        path: the file, or any of those that a model was split into.
        device: where the weights go.
        dtype: what they become; None: see above.

    Raises:
        CheckpointError: the file is missing, damaged, or not a model that Penjing reads.
    """
    gguf = file.read(Path(path))
    architecture, composition = config.read(_header(gguf))
    with named(gguf.path), torch.device("meta"):
        model = composition.build()
    family = architecture.stored
    natural = gguf.tensors[config.EMBEDDING].format.name
    wanted = dtype or FLOATS[natural if natural in FLOATS else BF16.name]
    fill(model, dict(stream_weights(gguf.path, _held(gguf, wanted), family, model, torch.device(device), wanted)))
    return model.eval()


def read_config(path: str | Path) -> LanguageModel.Config:
    """What the model in a GGUF file is, without its weights. Errors as of `load_model`."""
    gguf = file.read(Path(path))
    return config.read(_header(gguf))[1]


def load_tokenizer(path: str | Path) -> "Tokenizer":
    """The tokenizer in a GGUF file.

    Raises:
        CheckpointError: the file is missing, or no GGUF file.
        TokenizerError: it holds no tokenizer, or one that Penjing does not read.
    """
    from penjing.models.gguf import tokenizer

    gguf = file.read(Path(path))
    return tokenizer.read(gguf.metadata, gguf.path)


def save(
    path: str | Path, model: LanguageModel, tokenizer: "Tokenizer | None" = None, *, quantization: str = "f16"
) -> None:
    """Writes a GGUF file that llama.cpp and Ollama open, whole or not at all.

    Args:
        path: the file; an older one is replaced.
        model: one that an architecture of llama.cpp computes.
        tokenizer: written too, with its chat template; None: the file then has no vocabulary.
        quantization: what matrices are stored in: f16, bf16, f32 or q8_0.

    Raises:
        CheckpointError: llama.cpp has no architecture that computes the same, or a weight does not fit the format.
        TokenizerError: GGUF cannot hold the tokenizer.
        ConfigError: there is no such quantization.
    """
    path = Path(path)
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"there is no GGUF quantization '{quantization}'" + nearest(quantization, QUANTIZATIONS))
    chosen, file_type = QUANTIZATIONS[quantization]
    architecture, metadata, factors = config.write(model)
    general = {
        config.ARCHITECTURE: architecture.name,
        "general.type": "model",
        "general.name": path.stem,
        "general.file_type": np.uint32(file_type),
        "general.quantization_version": np.uint32(2),
    }
    written = general | metadata | _vocabulary(tokenizer, model.config.vocab)
    file.write(path, written, [*_factors(factors), *_weights(architecture, model, chosen)])


def _header(gguf: GGUF) -> config.Header:
    shapes = {name: entry.shape for name, entry in gguf.tensors.items()}
    factors = {name: gguf.tensors[name].read(torch.float32) for name in FACTORS if name in shapes}
    return config.Header(str(gguf.path), gguf.metadata, shapes, factors)


def _held(gguf: GGUF, dtype: torch.dtype) -> Iterator[tuple[str, Held]]:
    """The weights, to be read in the order of the file."""
    for entry in sorted(gguf.tensors.values(), key=lambda entry: entry.place):
        if entry.name not in FACTORS:
            yield entry.name, _one_held(entry, dtype)


def _one_held(entry: Entry, dtype: torch.dtype) -> Held:
    """Norms and biases are read exactly: what is done to them comes before rounding."""
    exact = torch.float32 if len(entry.shape) == 1 else dtype
    name = next(name for name, each in FLOATS.items() if each == exact)
    return Held(entry.shape, name, partial(entry.read, exact), lambda: None)


def _vocabulary(tokenizer: "Tokenizer | None", vocab: int) -> dict[str, Any]:
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none"}
    if tokenizer.vocab_size > vocab:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {vocab}; they do not belong together"
        )
    from penjing.models.gguf.tokenizer import write

    return write(tokenizer, vocab)


def _weights(architecture: Architecture, model: LanguageModel, chosen: Format) -> Iterator[Outgoing]:
    weights = dict(model.named_parameters())
    shapes = {name: weight.shape for name, weight in weights.items()}
    for name, stored in architecture.stored.table(model).items():
        shape = stored.shape(shapes)
        yield Outgoing(name, shape, _format(name, shape, chosen), partial(stored.write, weights))


def _factors(factors: dict[str, Tensor]) -> Iterator[Outgoing]:
    for name, tensor in factors.items():
        yield Outgoing(name, tuple(tensor.shape), F32, tensor.clone)


def _format(name: str, shape: tuple[int, ...], chosen: Format) -> Format:
    if len(shape) == 1 or name.endswith("_norm.weight") or name == "position_embd.weight":
        return F32
    return F16 if shape[-1] % chosen.numbers else chosen
