"""What is in a model's file, byte by byte; what each number format does to weights, and to the loss of a model."""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from common import Stream, arguments, loader, table, texts, train

from penjing.data.loader import validation_batches
from penjing.evaluation.loss import mean_loss
from penjing.models import formats
from penjing.models.gguf import file as gguf_file
from penjing.models.gguf.quants import FORMATS
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.tokenizer import Tokenizer
from penjing.training.muon import Muon
from penjing.training.plots import Curve, Plot

CONTEXT, BATCH, WIDTH = 128, 8, 256  # the K formats want rows of a multiple of 256 numbers
NUMBERS = 1 << 20
WRITTEN = ("F32", "F16", "BF16", "Q8_0")
BY_PACKAGE = ("Q5_1", "Q5_0", "Q4_1", "Q4_0")
KINDS = {
    "one scale": [f"one scale, {bits} bits" for bits in (4, 5, 6, 8)],
    "scales of blocks": ["Q4_0", "Q5_0", "Q8_0"],
    "scales and offsets": ["Q4_1", "Q5_1"],
    "K": ["Q4_K", "Q5_K", "Q6_K"],
}
BY_NAME = {format.name: format for format in FORMATS.values()}


def model_of(vocab: int) -> LanguageModel:
    """A LLaMA whose matrices have rows that every format can hold."""
    norm = RMSNorm.Config()
    mixer = Attention.Config(heads=4, rope=Rope.Config())
    block = Block.Config(mixer=mixer, mlp=SwiGLU.Config(hidden=3 * WIDTH), norm=norm)
    return LanguageModel.Config(vocab, WIDTH, (block,) * 2, CONTEXT, norm, tied=True).build()


def show_layout(model: LanguageModel, folder: Path) -> None:
    """The beginning of a safetensors file and of a GGUF file, and a tensor of each read by hand."""
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    about = header.pop("__metadata__", None)
    size = path.stat().st_size
    print(f"{path.name}: {size:,} bytes; a header of 8 + {length:,}, {len(header)} tensors; {about}")
    names = sorted(header, key=lambda name: header[name]["data_offsets"])
    for name in names[:3]:
        print(f"    {name}: {json.dumps(header[name])}")
    name = next(name for name in names[1:] if len(header[name]["shape"]) == 2)
    entry = header[name]
    begin, end = entry["data_offsets"]
    rows, columns = entry["shape"]
    mapped = np.memmap(path, "<f4", mode="r", offset=8 + length + begin, shape=(rows, columns))
    number = mapped[7, 5]
    print(f"    number [7, 5] of {name}: from byte {8 + length + begin + 4 * (7 * columns + 5):,}, {number:.6f}")
    ours = dict(model.named_parameters())
    same = any(weight.shape == mapped.shape and np.array_equal(mapped, weight.detach()) for weight in ours.values())
    print(f"    mapped, {end - begin:,} bytes of {size:,} touched, the model's own numbers: {same}")

    held = gguf_file.read(folder / "q8_0.gguf")
    size = held.path.stat().st_size
    print(f"{held.path.name}: {size:,} bytes; {len(held.metadata)} metadata entries, {len(held.tensors)} tensors")
    for key in ("general.architecture", "llama.block_count", "llama.rope.freq_base", "tokenizer.ggml.model"):
        print(f"    {key}: {held.metadata[key]!r}")
    for tensor in sorted(held.tensors.values(), key=lambda tensor: tensor.place)[:3]:
        print(f"    {tensor.name}: {tensor.format.name}, {list(tensor.shape)}, from byte {tensor.place:,}")
    first = next(tensor for tensor in held.tensors.values() if tensor.format.name == "Q8_0")
    block = first.content[first.place : first.place + first.format.size]
    scale, whole = np.frombuffer(block[:2], "<f2")[0], np.frombuffer(block[2:], np.int8)
    print(f"    first block of {first.name}, {len(block)} bytes: d {float(scale):.8f}, q {whole[:8].tolist()} ...")
    print(f"    d * q  {[round(float(scale) * int(q), 4) for q in whole[:4]]} ...")
    print(f"    before {[round(number, 4) for number in ours['embedding.weight'].flatten()[:4].tolist()]} ...")


def pack_k(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Q4_K or Q5_K: d * q - m in groups of 32, d and m of 6 bits. `numbers` is `(blocks, 256)`.

    The plain way: a group's range is from its least number (or 0) to its largest. llama.cpp looks for better ones.
    """
    groups = numbers.reshape(-1, 8, 32)
    offset = -np.minimum(groups.min(axis=2), 0)  # (blocks, 8)
    scale = (groups.max(axis=2) + offset) / (2**bits - 1)
    halves = [np.float16(each.max(axis=1) / 63) for each in (scale, offset)]
    d, m = (np.where(half == 0, 1, half).astype(np.float32)[:, None] for half in halves)
    s, o = (np.clip(np.rint(each / unit), 0, 63).astype(np.uint8) for each, unit in ((scale, d), (offset, m)))
    step = np.where(s == 0, 1, d * s)[:, :, None]
    q = np.clip(np.rint((groups + (m * o)[:, :, None]) / step), 0, 2**bits - 1).astype(np.uint8)
    scales = [s[:, :4] | s[:, 4:] >> 4 << 6, o[:, :4] | o[:, 4:] >> 4 << 6, s[:, 4:] & 15 | (o[:, 4:] & 15) << 4]
    pairs = q.reshape(-1, 4, 2, 32) & 15
    lower = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    fifth = [np.packbits(q >> 4, axis=1, bitorder="little").reshape(-1, 32)] if bits == 5 else []
    return np.concatenate([*(half[:, None].view(np.uint8) for half in halves), *scales, *fifth, lower], axis=1)


def pack_q6_k(numbers: np.ndarray) -> np.ndarray:
    """Q6_K: d * q in groups of 16, d of 8 bits; the largest of a group becomes -32. `numbers` is `(blocks, 256)`."""
    groups = numbers.reshape(-1, 16, 16)
    place = np.abs(groups).argmax(axis=2)[:, :, None]
    scale = np.take_along_axis(groups, place, axis=2)[:, :, 0] / -32  # (blocks, 16)
    half = np.float16(np.abs(scale).max(axis=1) / 127)
    d = np.where(half == 0, 1, half).astype(np.float32)[:, None]
    s = np.clip(np.rint(scale / d), -127, 127).astype(np.int8)
    step = np.where(s == 0, 1, d * s)[:, :, None]
    q = (np.clip(np.rint(groups / step), -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    lower = (q[:, :, :2] & 15 | (q[:, :, 2:] & 15) << 4).reshape(-1, 128)
    upper = np.bitwise_or.reduce(q >> 4 << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=2).reshape(-1, 64)
    return np.concatenate([lower, upper, s.view(np.uint8), half[:, None].view(np.uint8)], axis=1)


def rounded(numbers: np.ndarray, name: str) -> np.ndarray:
    """What is left of numbers after they were in a format: packed into its bytes, and read by Penjing."""
    format = BY_NAME[name]
    rows = np.ascontiguousarray(numbers, np.float32).reshape(-1, format.numbers)
    if format.quantize is not None:
        blocks = format.quantize(rows)
    elif name in BY_PACKAGE:
        blocks = gguf.quantize(rows, gguf.GGMLQuantizationType(format.code))
    else:
        blocks = pack_q6_k(rows) if name == "Q6_K" else pack_k(rows, 4 if name == "Q4_K" else 5)
    return format.dequantize(blocks.reshape(-1, format.size)).reshape(numbers.shape)


def one_scale(numbers: np.ndarray, bits: int) -> np.ndarray:
    """One scale for a whole tensor."""
    scale = np.abs(numbers).max() / (2 ** (bits - 1) - 1)
    return np.rint(numbers / scale) * scale


def ways() -> dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]]:
    """By name: bits for each weight, and the rounding."""
    found: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {}
    for name in (*WRITTEN, "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0"):
        bits = 8 * BY_NAME[name].size / BY_NAME[name].numbers
        found[name] = (bits, lambda numbers, name=name: rounded(numbers, name))
    for bits in (8, 6, 5, 4):
        found[f"one scale, {bits} bits"] = (bits, lambda numbers, bits=bits: one_scale(numbers, bits))
    return found


def error(numbers: np.ndarray, back: np.ndarray) -> float:
    """The size of the rounding errors as a share of the numbers' own."""
    return float(np.sqrt(np.square(numbers - back, dtype=np.float64).mean() / np.square(numbers).mean()))


def main() -> None:
    """Trains a model, writes it into files, rounds its weights in every way; prints and draws what is lost."""
    args = arguments("17-files-and-number-formats", __doc__, steps=300, documents=4000)
    learn, unseen = texts(args.data, args.documents), texts(args.data, 200, first=10**6)
    tokenizer = Tokenizer.train(learn, 512)
    validation = Stream(tokenizer, unseen)

    def loss(of: LanguageModel) -> float:
        return mean_loss(of, validation_batches(validation, CONTEXT, 16, packing="best_fit"))

    model = model_of(tokenizer.vocab_size)
    batches = loader(Stream(tokenizer, learn), BATCH, CONTEXT)
    rates = Muon.Config(learning_rate=1e-2, precision="fp32")
    train(model, batches, args.steps, rates, lambda: validation_batches(validation, CONTEXT, 16), checks=1)
    plain = loss(model)

    generator = np.random.default_rng(1)
    normal = generator.standard_normal(NUMBERS, np.float32)
    outliers = np.where(generator.random(NUMBERS) < 1e-3, 20 * normal, normal)
    matrices = {name: weight.detach().numpy() for name, weight in model.named_parameters() if weight.dim() == 2}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        formats.save(folder, model, tokenizer)
        for name in WRITTEN:
            formats.save(folder / f"{name.lower()}.gguf", model, tokenizer, quantization=name.lower())
        show_layout(model, folder)
        sizes = {name: f"{(folder / f'{name.lower()}.gguf').stat().st_size:,}" for name in WRITTEN}
        from_file = {
            name: loss(formats.load_model(folder / f"{name.lower()}.gguf", dtype=torch.float32)) for name in WRITTEN
        }

    rows, found = [], {}
    for name, (bits, way) in ways().items():
        back = {key: way(matrix) for key, matrix in matrices.items()}
        joined = [np.concatenate([each[key].ravel() for key in matrices]) for each in (matrices, back)]
        errors = [error(normal, way(normal)), error(*joined), error(outliers, way(outliers))]
        changed = copy.deepcopy(model)
        weights = dict(changed.named_parameters())
        with torch.no_grad():
            for key, matrix in back.items():
                weights[key].copy_(torch.from_numpy(matrix))
        worse = loss(changed)
        assert name not in from_file or abs(worse - from_file[name]) < 1e-6, f"{name}: the file gives another loss"
        percent = [f"{100 * each:.3f}" for each in errors]
        rows.append([name, f"{bits:g}", *percent, f"{worse - plain:+.4f}", sizes.get(name, "")])
        found[name] = (bits, *errors)
    print(f"\nErrors in % of the numbers' size; what the validation loss of {plain:.4f} becomes; bytes of the file")
    table(["", "bits", "normal", "weights", "outliers", "loss", "file"], rows)

    lines = []
    for source, column, kinds in (("weights", 2, KINDS), ("outliers", 3, list(KINDS)[:2])):
        for kind in kinds:
            points = [(found[name][0], -np.log2(found[name][column])) for name in KINDS[kind]]
            lines.append(Curve(f"{source}: {kind}", *zip(*points, strict=True), points=True))
    title, y_label = "What a bit buys", "bits that are right: -log2(error / size)"
    Plot(title, "bits for each weight", y_label, lines).save(args.image)


if __name__ == "__main__":
    main()
