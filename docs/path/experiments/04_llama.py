"""From GPT-2's block to LLaMA's and Qwen3's, one change after another, each at several learning rates."""

from dataclasses import replace

from common import arguments, both_sides, loader, table, train

from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm, RMSNorm
from penjing.nn.positions import LearnedPositions
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.training.plots import Curve, Plot

WIDTH, LAYERS, CONTEXT, BATCH = 64, 3, 64, 16
RATES = (0.003, 0.01, 0.03, 0.1)


def ladder(vocab: int) -> dict[str, LanguageModel.Config]:
    """The models: each has everything that those before it have."""

    def model(block: Block.Config, positions: LearnedPositions.Config | None = None) -> LanguageModel.Config:
        return LanguageModel.Config(
            vocab, WIDTH, (block,) * LAYERS, CONTEXT, block.norm, tied=True, positions=positions
        )

    gpt2 = Block.Config(
        mixer=Attention.Config(heads=4, bias=True, output_bias=True),
        mlp=MLP.Config(hidden=4 * WIDTH, activation="gelu_tanh"),
        norm=LayerNorm.Config(),
    )
    rotary = replace(gpt2, mixer=replace(gpt2.mixer, rope=Rope.Config()))
    rms = replace(rotary, norm=RMSNorm.Config())
    bare = replace(rms, mixer=replace(rms.mixer, bias=False, output_bias=False), mlp=replace(rms.mlp, bias=False))
    swiglu = replace(bare, mlp=SwiGLU.Config(hidden=168))  # 3 * 168 is nearest to 2 * 256 among multiples of 8
    qk_norm = replace(swiglu, mixer=replace(swiglu.mixer, qk_norm=RMSNorm.Config()))
    return {
        "GPT-2": model(gpt2, LearnedPositions.Config()),
        "+ rotary positions": model(rotary),
        "+ RMSNorm": model(rms),
        "+ no biases": model(bare),
        "+ SwiGLU = LLaMA": model(swiglu),
        "+ QK-norm = Qwen3": model(qk_norm),
    }


def main() -> None:
    """Trains each model at each learning rate, prints and draws the validation loss at the end."""
    args = arguments("04-llama", __doc__, steps=250, documents=8000)
    tokenizer, training, held_out = both_sides(args, 200, CONTEXT, BATCH)

    curves, rows = [], []
    for name, config in ladder(tokenizer.vocab_size).items():
        losses = []
        for rate in RATES:
            model = config.build()
            losses.append(train(model, loader(training, BATCH, CONTEXT), args.steps, rate, held_out, checks=1)[-1][1])
        curves.append(Curve(name, RATES, losses, points=True))
        rows.append([name, f"{model.parameter_count():,}", *losses])
    table(["", "weights", *(f"lr {rate:g}" for rate in RATES)], rows)
    title, y_label = "One change after another", f"nats per token of unseen text after {args.steps} steps"
    Plot(title, "learning rate", y_label, curves, log_x=True).save(args.image)


if __name__ == "__main__":
    main()
