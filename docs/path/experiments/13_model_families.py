"""What a model is called after one change, rotary pairs read as halves, and five orders of norms at several rates."""

from dataclasses import replace

import torch
from common import arguments, both_sides, loader, table, train

from penjing.data.batch import TokenBatch
from penjing.models.families import family_of
from penjing.models.families.glm import GLM
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block, OutputNormBlock, ParallelBlock, PostNormBlock, SandwichBlock
from penjing.nn.geglu import GeGLU
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm, OffsetRMSNorm, RMSNorm
from penjing.nn.positions import LearnedPositions
from penjing.nn.rope import Rope, rotate
from penjing.nn.swiglu import SwiGLU
from penjing.training.objectives import next_token
from penjing.training.plots import Curve, Plot

WIDTH, DEPTH, CONTEXT, BATCH = 64, 4, 64, 16
RATES, SCALE = (0.003, 0.01, 0.03), 50.0  # embeddings begin with a standard deviation of 0.02, and with 1 when scaled
ATTENTION = Attention.Config(heads=4, kv_heads=2, rope=Rope.Config())
LLAMA = Block.Config(mixer=ATTENTION, mlp=SwiGLU.Config(hidden=168), norm=RMSNorm.Config())
ORDERS = {
    "pre": Block,
    "parallel": ParallelBlock,
    "sandwich": SandwichBlock,
    "output": OutputNormBlock,
    "post": PostNormBlock,
}


def model_of(*blocks: Block.Config, depth: int = 12, vocab: int = 512, **more) -> LanguageModel.Config:
    """A composition that repeats these blocks."""
    layers = tuple(blocks[layer % len(blocks)] for layer in range(depth))
    return LanguageModel.Config(vocab, WIDTH, layers, CONTEXT, blocks[0].norm, tied=True, **more)


def ordered(kind: type[Block], block: Block.Config = LLAMA) -> Block.Config:
    """The same parts in another order."""
    return kind.Config(mixer=block.mixer, mlp=block.mlp, norm=block.norm)


def changes() -> dict[str, LanguageModel.Config]:
    """What is done to a LLaMA, and the composition that it gives."""

    def attending(block: Block.Config = LLAMA, **more) -> Block.Config:
        return replace(block, mixer=replace(block.mixer, **more))

    half = attending(rope=Rope.Config(fraction=0.5))
    biased = Attention.Config(heads=4, bias=True, output_bias=True)
    old = Block.Config(mixer=biased, mlp=MLP.Config(hidden=4 * WIDTH), norm=LayerNorm.Config())
    offset = OffsetRMSNorm.Config()
    gemma = SandwichBlock.Config(mixer=ATTENTION, mlp=GeGLU.Config(hidden=168), norm=offset)
    capped, normed = attending(gemma, softcap=50.0), attending(gemma, qk_norm=offset)
    scaled = {"embedding_scale": WIDTH**0.5}
    return {
        "nothing": model_of(LLAMA),
        "a window": model_of(attending(window=32)),
        "biases on queries, keys, values": model_of(attending(bias=True)),
        "QK-norm": model_of(attending(qk_norm=RMSNorm.Config())),
        "no positions in every fourth layer": model_of(LLAMA, LLAMA, LLAMA, attending(rope=None)),
        "half of each head rotated": model_of(half),
        "... and biases on queries, keys, values": model_of(attending(half, bias=True)),
        "... and sandwich norms": model_of(ordered(SandwichBlock, attending(half, bias=True))),
        "output norms, QK-norm over all heads": model_of(
            ordered(OutputNormBlock, attending(qk_norm=RMSNorm.Config(), joint_qk_norm=True))
        ),
        "sandwich norms, GeGLU, soft-caps, scaled embeddings, windows": model_of(
            attending(capped, window=32), capped, logit_softcap=30.0, **scaled
        ),
        "... and QK-norm instead of soft-caps": model_of(*[attending(normed, window=32)] * 5, normed, **scaled),
        "parallel, LayerNorm, MLP, biases, a quarter rotated": model_of(
            ordered(ParallelBlock, attending(old, rope=Rope.Config(fraction=0.25)))
        ),
        "LayerNorm, MLP, biases, learned positions": model_of(
            replace(old, mlp=replace(old.mlp, activation="gelu_tanh")), positions=LearnedPositions.Config()
        ),
        "parallel": model_of(ordered(ParallelBlock)),
        "post norms": model_of(ordered(PostNormBlock)),
    }


def turn_pairs(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """The paper's rotation of heads `(tokens, heads, dim)`: numbers 2k and 2k + 1 are one complex number."""
    rotated = 2 * angles.shape[-1]
    pairs = torch.view_as_complex(x[..., :rotated].unflatten(-1, (-1, 2)).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([torch.view_as_real(turned).flatten(-2), x[..., rotated:]], dim=-1)


def show_pairs() -> None:
    """Scores by the paper's pairs, and by our halves from rows that were reordered when they were read, or were not."""
    attention = Attention.Config(heads=4, kv_heads=2, head_dim=8, rope=Rope.Config(fraction=0.5), bias=True)
    model = model_of(replace(LLAMA, mixer=attention)).build()
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    stored = {part: GLM.table(model)[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qk"}

    def read(part: str, tensor: torch.Tensor) -> torch.Tensor:
        return stored[part].read(tensor, shapes)[stored[part].names[0]]

    numbers = torch.arange(4 * 8)[:, None].expand(-1, WIDTH)
    print("Rows of a head as stored, the first four rotated, and as read")
    print("   ", *range(8), "->", *read("q", numbers)[:8, 0].tolist())

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(CONTEXT, WIDTH, generator=generator)
    weights = {part: torch.randn(rows, WIDTH, generator=generator) / 7 for part, rows in (("q", 32), ("k", 16))}
    rope = model.blocks[0].mixer.rope
    positions = torch.arange(CONTEXT)
    cos, sin = rope(positions[None], torch.float32)

    def scores(turn, rows) -> torch.Tensor:
        query, key = (turn((x @ rows[part].T).unflatten(-1, (-1, 8))) for part in "qk")
        return torch.einsum("mhd,nhd->hmn", query, key.repeat_interleave(2, dim=1)) / 8**0.5

    def halves(heads: torch.Tensor) -> torch.Tensor:
        return rotate(heads[None], cos, sin)[0]

    angles = positions[:, None].float() * rope.frequencies
    paper = scores(lambda heads: turn_pairs(heads, angles), weights)
    ours = scores(halves, {part: read(part, rows) for part, rows in weights.items()})
    print(f"Scores: deviation {paper.std():.2f}; largest difference between pairs and halves")
    print(f"    rows reordered: {(ours - paper).abs().max():.0e}")
    print(f"    rows as stored: {(scores(halves, weights) - paper).abs().max():.2f}")


def at_the_start(config: LanguageModel.Config, batch: TokenBatch) -> list[str]:
    """Before any training: the stream's size after the first and the last block, and both blocks' gradients."""
    model, sizes = config.build(), []
    model.initialise(torch.Generator().manual_seed(1))
    for block in model.blocks:
        block.register_forward_hook(lambda *args: sizes.append(args[-1].square().mean().sqrt().item()))
    loss = next_token(model, batch)
    (loss.total / loss.weight).backward()
    ends = model.blocks[0], model.blocks[-1]
    gradients = [sum(w.grad.square().sum().item() for w in block.parameters()) ** 0.5 for block in ends]
    return [f"{number:.3f}" for number in (sizes[0], sizes[-1], *gradients)]


def main() -> None:
    """Names models, compares layouts, trains five orders of norms; prints all of it and draws the losses."""
    args = arguments("13-model-families", __doc__, steps=200, documents=6000)
    table(["LLaMA with", "goes by"], [[change, family_of(config).model_type] for change, config in changes().items()])
    print()
    show_pairs()

    tokenizer, training, held_out = both_sides(args, 150, CONTEXT, BATCH)
    configs = {
        name + text: model_of(ordered(kind), depth=DEPTH, vocab=tokenizer.vocab_size, embedding_scale=scale)
        for text, scale in (("", 1.0), (f", embeddings x {SCALE:g}", SCALE))
        for name, kind in ORDERS.items()
    }
    batch = next(loader(training, BATCH, CONTEXT))
    print("\nBefore training: root mean square of the stream after a block, norm of a block's gradient")
    head = ["", "stream 1", f"stream {DEPTH}", "gradient 1", f"gradient {DEPTH}"]
    table(head, [[name, *at_the_start(config, batch)] for name, config in configs.items()])

    def final(config: LanguageModel.Config, rate: float) -> float:
        batches = loader(training, BATCH, CONTEXT)
        return train(config.build(), batches, args.steps, rate, held_out, checks=1)[-1][1]

    losses = {name: [final(config, rate) for rate in RATES] for name, config in configs.items()}
    print(f"\nValidation loss after {args.steps} steps")
    table(["", *(f"lr {rate:g}" for rate in RATES)], [[name, *row] for name, row in losses.items()])
    drawn = [name for name in losses if name in ORDERS or name.startswith(("sandwich", "output"))]
    curves = [Curve(name, RATES, losses[name], points=True) for name in drawn]
    title, y_label = "Five places for the norms", f"nats per token of unseen text after {args.steps} steps"
    Plot(title, "learning rate", y_label, curves, log_x=True).save(args.image)


if __name__ == "__main__":
    main()
