"""What a cache saves, what it costs in memory, and what sharing key heads does to both and to the loss."""

import torch
from common import Stream, arguments, both_sides, loader, table, texts, train
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.state import KVCache
from penjing.nn.swiglu import SwiGLU
from penjing.training.plots import Curve, Plot

HEADS, CONTEXT, BATCH = 8, 128, 8


def model_of(vocab: int, kv_heads: int) -> LanguageModel:
    """A LLaMA with so many key and value heads."""
    norm = RMSNorm.Config()
    mixer = Attention.Config(heads=HEADS, kv_heads=kv_heads, rope=Rope.Config())
    block = Block.Config(mixer=mixer, mlp=SwiGLU.Config(hidden=168), norm=norm)
    return LanguageModel.Config(vocab, 64, (block,) * 3, CONTEXT, norm, tied=True).build()


def cache_bytes(model: LanguageModel, tokens: int) -> int:
    """What the keys and values of one text of so many tokens take, counted in the tensors themselves."""
    layers = model.new_state(batch=1, capacity=tokens).layers
    return sum(cache.keys.nbytes + cache.values.nbytes for cache in layers if isinstance(cache, KVCache))


def one_by_one(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits of a text that is read a token at a time, into a cache."""
    state = model.new_state(batch=1)
    return torch.cat([model(ids[:, i : i + 1], state=state) for i in range(ids.shape[1])], dim=1)


def flops_of_next(model: LanguageModel, length: int, *, cached: bool) -> int:
    """Floating-point operations for the token after `length` others."""
    ids = torch.zeros(1, length + 1, dtype=torch.long)
    state = model.new_state(batch=1) if cached else None
    if state is not None:
        model(ids[:, :length], state=state)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids[:, -1:] if cached else ids, state=state)
    return counter.get_total_flops()


def main() -> None:
    """Trains four models, measures their caches, prints the figures and draws the cost of a token."""
    args = arguments("05-grouped-query-attention-and-kv-cache", __doc__, steps=400, documents=8000)
    tokenizer, training, held_out = both_sides(args, 300, CONTEXT, BATCH)
    unseen = Stream(tokenizer, texts(args.data, 300, first=10**6))

    rows = []
    for kv_heads in (8, 4, 2, 1):
        model = model_of(tokenizer.vocab_size, kv_heads)
        loss = train(model, loader(training, BATCH, CONTEXT), args.steps, 5e-3, held_out, checks=1)[-1][1]
        ids = torch.from_numpy(unseen.read(0, CONTEXT))[None]
        with torch.inference_mode():
            difference = (one_by_one(model, ids) - model(ids)).abs().max().item()
        name = {HEADS: "multi-head", 1: "multi-query"}.get(kv_heads, "grouped")
        size = cache_bytes(model, CONTEXT)
        rows.append([name, kv_heads, f"{model.parameter_count():,}", f"{size:,}", f"{difference:.0e}", loss])
    table(["", "key heads", "weights", "cache bytes", "cached - uncached", "validation loss"], rows)

    # In float64, and by plain products, every operation goes where PyTorch counts it.
    model, lengths = model_of(tokenizer.vocab_size, 2).double(), (1, 16, 32, 48, 64, 80, 96, 112, 127)
    with torch.inference_mode():
        cost = {c: [flops_of_next(model, n, cached=c) / 1e6 for n in lengths] for c in (False, True)}
    print("\nMillion operations for the next token")
    table(["tokens before it", *map(str, lengths)], [["without cache", *cost[False]], ["with cache", *cost[True]]])
    curves = [
        Curve("without cache", lengths, cost[False], points=True),
        Curve("with cache", lengths, cost[True], points=True),
    ]
    Plot("The price of the next token", "tokens before it", "million operations", curves).save(args.image)


if __name__ == "__main__":
    main()
