"""Checkpoints of nanoGPT, `ckpt.pt`: GPT-2's blocks in PyTorch's own file format.

    model          name -> tensor: GPT-2's names, maps as (outputs, inputs); `_orig_mod.` before them after compiling
    model_args     n_layer, n_head, n_embd, block_size, vocab_size, bias, dropout
    optimizer, config, iter_num, best_val_loss       not looked at

The format is a zip archive of raw numbers and one pickle that says what they are. A pickle can run any code, so it is
read by PyTorch's restricted reader, which builds tensors, numbers, texts, lists and dictionaries and refuses all else;
numbers are mapped from the file, so the optimizer's, two thirds of it, are never read.

Source: Karpathy, nanoGPT, `model.py` and `train.py`. Its perceptron has the exact GELU since pull request 274 (June
2023), before that GPT-2's by tanh; a file does not say which. Only one without `bias` among its arguments is surely
older; every other is taken to be newer. The difference in a GELU's value is below 0.001.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from penjing.errors import CheckpointError, TokenizerError
from penjing.models.families.family import Fields, Stored
from penjing.models.families.gpt2 import GPT2
from penjing.models.folder import named
from penjing.models.language_model import LanguageModel
from penjing.models.weights import FLOATS, Held, fill, listed, stream_weights
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm
from penjing.nn.positions import LearnedPositions

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer

ARGUMENTS = {"n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias", "dropout"}
LARGEST_PICKLE = 2**26  # bytes; GPT-2 XL's, with its optimizer, has less than one of 64 parts
COMPILED = "_orig_mod."
FAMILY = replace(
    GPT2,
    weights={
        name: Stored(ours) if isinstance(ours, str) else Stored(*ours.names) for name, ours in GPT2.weights.items()
    },
)


def load_model(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> LanguageModel:
    """The model of a `ckpt.pt`.

    Raises:
        CheckpointError: the file is damaged, no checkpoint of nanoGPT, or holds more than tensors and plain values.
    """
    with named(path), torch.device("meta"):
        model = read_config(path).build()
    fill(model, dict(stream_weights(path, _Weights(path).held(), FAMILY, model, torch.device(device), dtype)))
    return model.eval()


def load_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer in the checkpoint's folder, if someone put one there; nanoGPT does not.

    Raises:
        TokenizerError: there is none; it says what to do.
    """
    from penjing.tokenizer import Tokenizer

    try:
        return Tokenizer.load(path.parent)
    except TokenizerError as error:
        raise TokenizerError(
            f"{path} does not hold its tokenizer ({error}); put it beside the checkpoint or say where it is "
            "(--tokenizer of `penjing convert`): GPT-2's is hf:openai-community/gpt2, or a folder with vocab.bpe and "
            "encoder.json. nanoGPT's meta.pkl is a pickle, which could run any code, and is never opened"
        ) from None


def read_config(path: Path) -> LanguageModel.Config:
    """What the model in a `ckpt.pt` is. Errors as of `load_model`."""
    return _config(path, _read(path))


def _read(path: Path) -> dict[str, Any]:
    """The checkpoint's dictionary, its tensors mapped."""
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as fault:  # what a damaged or hostile pickle leads to can be of any kind
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors and plain values, and is not opened: {_first_line(fault)}"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("model", "model_args")):
        raise CheckpointError(f"{path} is no checkpoint of nanoGPT: it has no 'model' or no 'model_args'")
    return content


def _check_archive(path: Path) -> None:
    """That the file is an archive as PyTorch writes it, and unpacks to no more than it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of PyTorch 1.6 or later, or cut short ({error}); copy it again"
        ) from None
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(f"{path} is packed ({packed[0]}), as PyTorch's files never are; it is not opened")
    pickled = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if pickled > LARGEST_PICKLE:
        raise CheckpointError(f"{path} describes its tensors in {pickled} bytes, far more than they need; not opened")


def _config(path: Path, content: dict[str, Any]) -> LanguageModel.Config:
    arguments = content["model_args"]
    unknown = [str(name) for name in arguments if name not in ARGUMENTS]
    if unknown:
        raise CheckpointError(
            f"{path}: model_args has {listed(unknown)}, which nanoGPT does not know; it is of a variant that Penjing "
            "does not read"
        )
    hf = Fields(arguments, f"{path}, model_args")
    width, heads = hf.integer("n_embd"), hf.integer("n_head")
    bias, dropout = hf.flag("bias", True), hf.number("dropout", 0.0)
    norm = LayerNorm.Config(bias=bias)
    block = Block.Config(
        mixer=Attention.Config(heads=heads, bias=bias, output_bias=bias, dropout=dropout),
        mlp=MLP.Config(hidden=4 * width, activation="gelu" if "bias" in arguments else "gelu_tanh", bias=bias),
        norm=norm,
        dropout=dropout,
    )
    with named(path):
        return LanguageModel.Config(
            vocab=hf.integer("vocab_size"),
            width=width,
            layers=(block,) * hf.layers("n_layer"),
            context=hf.integer("block_size"),
            norm=norm,
            tied=True,
            positions=LearnedPositions.Config(),
            embedding_dropout=dropout,
        ).resolved()


class _Weights:
    """The weights of a checkpoint, mapped.

    PyTorch gives no page back before all tensors of a mapping are gone. So the file is mapped anew whenever as much as
    its largest weight has been read, and what is mapped never takes more memory than that.
    """

    def __init__(self, path: Path):
        self.path = path
        self._tensors = _tensors(path)
        self._largest = max((tensor.nbytes for tensor in self._tensors.values()), default=0)
        self._touched = 0

    def held(self) -> Iterator[tuple[str, Held]]:
        """The weights by GPT-2's names."""
        names = {dtype: name for name, dtype in FLOATS.items()}
        for name, tensor in self._tensors.items():
            dtype = names.get(tensor.dtype, str(tensor.dtype))
            yield (
                name.removeprefix(COMPILED),
                Held(tuple(tensor.shape), dtype, partial(self._read, name, tensor.nbytes)),
            )

    def _read(self, name: str, size: int) -> Tensor:
        if self._touched + size > self._largest:
            before = [(other, tensor.shape, tensor.dtype) for other, tensor in self._tensors.items()]
            self._tensors = _tensors(self.path)
            self._touched = 0
            if before != [(other, tensor.shape, tensor.dtype) for other, tensor in self._tensors.items()]:
                raise CheckpointError(f"{self.path} was written anew while it was read; try again")
        self._touched += size
        return self._tensors[name]


def _tensors(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, tensor in _read(path)["model"].items():
        if not isinstance(name, str) or type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
            raise CheckpointError(f"{path}: {name!r} is no plain tensor")
        tensors[name] = tensor.detach()
    return tensors


def _first_line(fault: Exception) -> str:
    return next(iter(str(fault).splitlines()), "") or type(fault).__name__
