"""Models of llama2.c: one `.bin` file with a header of seven numbers and the weights in float32.

    int32  width, hidden, layers, heads, kv_heads, vocab, context       vocab is negative when the head is not tied
    float  embedding, then for all layers: attention norms, query, key, value, output, mlp norms, gate, down, up,
           the final norm, context x head_dim / 2 cosines and as many sines, the head when it is not tied

llama2.c turns pairs of neighbours (2 k, 2 k + 1) of a head; we turn (k, k + head_dim / 2), as transformers does, so the
rows of the query and key weights are reordered. The cosines and sines are written for programs that use them; they
follow from the header, so they are not read.

The header is all that a file says of its model. The rest is fixed: LLaMA's blocks without biases, an epsilon of 1e-5, a
rotation with theta 10,000 over the whole of each head. What differs is not written.

Source: Karpathy, llama2.c, `run.c` (the layout that its `export.py` calls version 0).
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from penjing.errors import CheckpointError
from penjing.files import atomic_file
from penjing.models.families import family_of
from penjing.models.families.family import MAX_LAYERS, Stored, essence
from penjing.models.families.llama import LLAMA
from penjing.models.language_model import LanguageModel
from penjing.models.weights import FLOATS, Held, MappedFile, fill, mapped, stream_weights
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope, frequencies
from penjing.nn.swiglu import SwiGLU

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer

HEADER = struct.Struct("<7i")
LARGEST = 1_000_000  # no number of a sound header is larger
ORDER = (
    "embedding.weight",
    "blocks.{i}.mixer_norm.weight",
    "blocks.{i}.mixer.query.weight",
    "blocks.{i}.mixer.key.weight",
    "blocks.{i}.mixer.value.weight",
    "blocks.{i}.mixer.output.weight",
    "blocks.{i}.mlp_norm.weight",
    "blocks.{i}.mlp.gate.weight",
    "blocks.{i}.mlp.down.weight",
    "blocks.{i}.mlp.up.weight",
    "norm.weight",
    "head.weight",
)
FAMILY = replace(LLAMA, weights={name: Stored(name, paired=True) for name in ORDER})


def load_model(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> LanguageModel:
    """The model of a `.bin` file.

    Raises:
        CheckpointError: it is not such a file, it is cut short or too long, or its weights are not finite.
    """
    config = read_config(path)
    end = _tables_at(config) + 4 * (_table_numbers(config) + (0 if config.tied else config.vocab * config.width))
    size = path.stat().st_size
    if size != end:
        raise CheckpointError(
            f"{path} has {size} bytes, but its header asks for {end}; it is cut short or no llama2.c model"
        )
    with torch.device("meta"):
        model = config.build()
    fill(model, dict(stream_weights(path, _held(path, model), FAMILY, model, torch.device(device), dtype)))
    return model.eval()


def load_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer that llama2.c puts beside a model: `tok512.bin` for a vocabulary of 512, else `tokenizer.bin`.

    Raises:
        CheckpointError: there is neither.
        TokenizerError: it is damaged.
    """
    from penjing.tokenizer import Tokenizer

    vocab = read_config(path).vocab
    for name in (_tokenizer_name(vocab), "tokenizer.bin"):
        if path.with_name(name).is_file():
            return Tokenizer.load(path.with_name(name))
    raise CheckpointError(
        f"{path} has no tokenizer beside it ({_tokenizer_name(vocab)} or tokenizer.bin); say where it is"
    )


def read_config(path: Path) -> LanguageModel.Config:
    """What the model in a `.bin` file is, by its header."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER.size)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if header.startswith((b"PK\3\4", b"\x80\2")):
        raise CheckpointError(
            f"{path} is a pickle of PyTorch's, which could run any code and is never opened; save it as safetensors "
            "where you trust it (transformers: model.save_pretrained)"
        )
    if len(header) < HEADER.size:
        raise CheckpointError(f"{path} is too short for a llama2.c model")
    width, hidden, layers, heads, kv_heads, vocab, context = HEADER.unpack(header)
    sizes = (width, hidden, layers, heads, kv_heads, abs(vocab), context)
    possible = min(sizes) >= 1 and max(sizes) <= LARGEST and layers <= MAX_LAYERS
    if not possible or width % heads or heads % kv_heads or (width // heads) % 2:
        raise CheckpointError(f"{path} is no llama2.c model: its header says {sizes}")
    return _config(width, hidden, layers, heads, kv_heads, abs(vocab), context, tied=vocab > 0)


def save(path: Path, model: LanguageModel, tokenizer: "Tokenizer | None" = None) -> None:
    """Writes a `.bin` file that llama2.c's run.c reads, and the tokenizer beside it as `tok512.bin` (its size).

    Args:
        path: the file; an older one is replaced.
        model: LLaMA's blocks as the header can say; its weights are written in float32.
        tokenizer: SentencePiece's, with as many tokens as the model; None writes the weights alone.

    Raises:
        CheckpointError: the model is one that the format cannot say, and why; nothing is written then.
        TokenizerError: the same of the tokenizer.
    """
    header = _header(path, model.config)
    document = None if tokenizer is None else _tokenizer_document(path, tokenizer, model.config.vocab)
    if document is not None:
        beside = path.with_name(_tokenizer_name(model.config.vocab))
        if beside.is_file() and beside.read_bytes() != document:
            raise CheckpointError(f"{beside} is there and is another tokenizer; write {path.name} to another folder")
        with atomic_file(beside) as temporary:
            temporary.write_bytes(document)
    table, weights = FAMILY.table(model), dict(model.named_parameters())
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        for name in _names(len(model.blocks)):
            if name == "head.weight":
                file.writelines(map(_bytes, _rotation_tables(model.config)))
            if name in table:
                file.write(_bytes(table[name].write(weights)))


def _config(
    width: int, hidden: int, layers: int, heads: int, kv_heads: int, vocab: int, context: int, *, tied: bool
) -> LanguageModel.Config:
    norm = RMSNorm.Config(eps=1e-5)
    mixer = Attention.Config(heads=heads, kv_heads=kv_heads, rope=Rope.Config())
    block = Block.Config(mixer=mixer, mlp=SwiGLU.Config(hidden), norm=norm)
    return LanguageModel.Config(
        vocab=vocab, width=width, layers=(block,) * layers, context=context, norm=norm, tied=tied
    ).resolved()


def _header(path: Path, config: LanguageModel.Config) -> bytes:
    """The seven numbers of a model, if they say all that it is."""
    config = config.resolved()
    block = config.layers[0] if config.layers else None
    mixer, mlp = getattr(block, "mixer", None), getattr(block, "mlp", None)
    if type(block) is not Block.Config or type(mixer) is not Attention.Config or type(mlp) is not SwiGLU.Config:
        name = family_of(config).model_type
        raise CheckpointError(f"{path}: a llama2.c file holds LLaMA's blocks only; this is a model of the kind {name}")
    sizes = (config.width, mlp.hidden, len(config.layers), mixer.heads, cast(int, mixer.kv_heads))
    if mixer.heads * cast(int, mixer.head_dim) != config.width:
        raise CheckpointError(
            f"{path}: in a llama2.c file the heads share the width; this model has {mixer.heads} of {mixer.head_dim} "
            f"numbers and a width of {config.width}"
        )
    said = _config(*sizes, config.vocab, config.context, tied=config.tied)
    odd = list(_differences(essence(config), essence(said)))
    if odd:
        raise CheckpointError(f"{path}: a llama2.c file cannot say what this model is: {'; '.join(odd[:4])}")
    return HEADER.pack(*sizes, config.vocab if config.tied else -config.vocab, config.context)


def _differences(ours: Any, said: Any, place: str = "") -> Iterator[str]:
    """In which fields a config differs from the one that the format means."""
    if isinstance(ours, tuple) and isinstance(said, tuple):
        found = (text for pair in zip(ours, said, strict=True) for text in _differences(*pair, place))
        yield from dict.fromkeys(found)  # the layers' are mostly alike
    elif is_dataclass(ours) and type(ours) is type(said):
        for field in fields(ours):
            inner = f"{place}.{field.name}" if place else field.name
            yield from _differences(getattr(ours, field.name), getattr(said, field.name), inner)
    elif ours != said:
        yield f"{place} is {ours}, the format has {said}"


def _names(layers: int) -> Iterator[str]:
    """Our weights in the order of the file."""
    for name in ORDER:
        for layer in range(layers if "{i}" in name else 1):
            yield name.replace("{i}", str(layer))


def _held(path: Path, model: LanguageModel) -> Iterator[tuple[str, Held]]:
    file, place = MappedFile(path), HEADER.size
    table = FAMILY.table(model)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    for name in _names(len(model.blocks)):
        if name == "head.weight":
            place += 4 * _table_numbers(model.config)
        if name in table:
            shape = tuple(table[name].shape(shapes))
            yield name, mapped(file, place, "F32", shape)
            place += FLOATS["F32"].itemsize * math.prod(shape)


def _tables_at(config: LanguageModel.Config) -> int:
    """The byte at which the cosines begin, for a config that a header gave."""
    block = config.layers[0]
    attention, mlp = cast(Attention.Config, block.mixer), cast(SwiGLU.Config, block.mlp)
    width = config.width
    kv_width = width // attention.heads * cast(int, attention.kv_heads)
    layer = 2 * width + 2 * width * width + 2 * kv_width * width + 3 * mlp.hidden * width
    return HEADER.size + 4 * (config.vocab * width + len(config.layers) * layer + width)


def _table_numbers(config: LanguageModel.Config) -> int:
    """How many cosines and sines there are."""
    return 2 * config.context * (config.width // cast(Attention.Config, config.layers[0].mixer).heads // 2)


def _rotation_tables(config: LanguageModel.Config) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's angles, each `(context, head_dim / 2)`."""
    head_dim = config.width // cast(Attention.Config, config.layers[0].mixer).heads
    positions = torch.arange(config.context, dtype=torch.float32)
    angles = torch.outer(positions, frequencies(Rope.Config().theta, head_dim))
    return angles.cos(), angles.sin()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.to(device="cpu", dtype=torch.float32).numpy().astype("<f4", copy=False).tobytes()


def _tokenizer_name(vocab: int) -> str:
    return f"tok{vocab}.bin"


def _tokenizer_document(path: Path, tokenizer: "Tokenizer", vocab: int) -> bytes:
    from penjing.tokenizer.formats import llama2c

    if tokenizer.vocab_size != vocab:
        raise CheckpointError(
            f"{path}: run.c reads as many tokens as the model has, {vocab}; the tokenizer has {tokenizer.vocab_size}"
        )
    return llama2c.document(tokenizer)
