"""A model that was trained on 128 tokens reads longer texts, its rotary frequencies lowered in several ways."""

from dataclasses import replace

import torch
from common import Stream, arguments, loader, table, texts, train

from penjing.data.loader import windows
from penjing.evaluation.loss import mean_loss
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import LinearScaling, Llama3Scaling, Rope, YarnScaling, frequencies, ntk_theta
from penjing.nn.swiglu import SwiGLU
from penjing.tokenizer import Tokenizer
from penjing.training.plots import Curve, Plot

CONTEXT, LENGTHS, HEAD_DIM, THETA = 128, (128, 192, 256, 384, 512, 768, 1024), 32, 10_000.0


def ropes(factor: float) -> dict[str, Rope.Config]:
    """The ways of reading texts `factor` times as long."""
    return {
        "unscaled": Rope.Config(THETA),
        "linear": Rope.Config(THETA, LinearScaling(factor)),
        "NTK": Rope.Config(ntk_theta(THETA, HEAD_DIM, factor)),
        "YaRN": Rope.Config(THETA, YarnScaling(factor, CONTEXT)),
        "llama3": Rope.Config(THETA, Llama3Scaling(factor, 1.0, 4.0, CONTEXT)),
    }


def with_rope(config: LanguageModel.Config, rope: Rope.Config) -> LanguageModel.Config:
    """The same model with another rope. Its weights fit: a rope has none."""
    return replace(config, layers=tuple(replace(b, mixer=replace(b.mixer, rope=rope)) for b in config.layers))


def second_half(data: Stream, length: int):
    """Windows of `length` tokens in which only the second half counts: predictions with much text before them."""
    for batch in windows(data, 16_384 // length, length, 4):
        batch.mask[:, : length // 2] = False
        yield batch


def main() -> None:
    """Trains once, reads texts of several lengths in several ways, prints and draws the loss."""
    args = arguments("03-rope", __doc__, steps=600, documents=8000)
    learn, unseen = texts(args.data, args.documents), texts(args.data, 400, first=10**6)
    tokenizer = Tokenizer.train(learn, 512)
    # Documents are short, so that here, as an exception, attention may cross their borders.
    training, validation = Stream(tokenizer, learn, borders=False), Stream(tokenizer, unseen, borders=False)
    norm = RMSNorm.Config()
    mixer = Attention.Config(heads=2, head_dim=HEAD_DIM, rope=Rope.Config(THETA))
    block = Block.Config(mixer=mixer, mlp=SwiGLU.Config(hidden=168), norm=norm)
    config = LanguageModel.Config(tokenizer.vocab_size, 64, (block,) * 3, CONTEXT, norm, tied=True)
    model = config.build()
    batches = loader(training, 8, CONTEXT, packing="random")
    train(model, batches, args.steps, 5e-3, lambda: second_half(validation, CONTEXT), checks=1)

    print(f"What becomes of a frequency at factor 4 (turns: in the {CONTEXT} tokens of training)")
    plain = frequencies(THETA, HEAD_DIM)
    scaled = {name: rope.build(HEAD_DIM).frequencies / plain for name, rope in ropes(4.0).items()}
    rows = [
        [k, f"{CONTEXT * plain[k] / (2 * torch.pi):.2f}", *(f"{ratio[k]:.2f}" for ratio in scaled.values())]
        for k in range(0, HEAD_DIM // 2, 2)
    ]
    table(["k", "turns", *scaled], rows)

    losses: dict[str, list[float]] = {}
    for length in LENGTHS:
        for name, rope in ropes(length / CONTEXT).items():
            reader = with_rope(config, rope).build()
            reader.load_state_dict(model.state_dict())
            losses.setdefault(name, []).append(mean_loss(reader, second_half(validation, length)))
    print("\nLoss over the second half of texts of several lengths")
    table(["length", *map(str, LENGTHS)], [[name, *values] for name, values in losses.items()])
    title = f"Trained on {CONTEXT} tokens, read on longer texts"
    curves = [Curve(name, LENGTHS, values, points=True) for name, values in losses.items()]
    Plot(title, "tokens in the text", "nats per token, second half", curves, log_x=True).save(args.image)


if __name__ == "__main__":
    main()
