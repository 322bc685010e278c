"""GPT-2 in small, and what each of its decisions is worth: one of them is taken back in each run."""

from dataclasses import replace

import torch
from common import Stream, arguments, loader, table, texts, train

from penjing.data.batch import TokenBatch
from penjing.data.loader import validation_batches
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm
from penjing.nn.positions import LearnedPositions
from penjing.nn.sequence import Sequence
from penjing.tokenizer import Tokenizer
from penjing.training.objectives import Loss, next_token
from penjing.training.plots import Curve, Plot

WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 64, 3, 4, 64, 16


class PostNormBlock(Block):
    """BERT's order: the norm comes after the sum, so nothing passes a block untouched."""

    class Config(Block.Config):
        """What it is made of."""

        def build(self, width: int) -> Block:
            """The block."""
            return PostNormBlock(self, width)

    def forward(self, x, sequence, state=None):  # noqa: D102
        x = self.mixer_norm(x + self.mixer(x, sequence, state))
        return self.mlp_norm(x + self.mlp(x))


class Unmasked(Sequence):
    """BERT's attention: every token sees every other one of its document."""

    def is_causal(self, window: int | None) -> bool:
        """Never."""
        return False

    def _visible(self, window: int | None) -> torch.Tensor:
        if self.documents is None:
            return torch.ones(1, 1, self.queries, self.keys, dtype=torch.bool)
        return (self.documents[:, :, None] == self.documents[:, None, :])[:, None]  # (batch, 1, queries, keys)


class UnmaskedModel(LanguageModel):
    """A GPT that can see the future, which it is to predict."""

    def _sequence(self, tokens, positions, documents, state):
        seen = super()._sequence(tokens, positions, documents, state)
        return Unmasked(seen.positions, 0, seen.documents)


def at_15_percent(model: LanguageModel, batch: TokenBatch) -> Loss:
    """The loss at as many places as BERT predicts: 15 of 100. Evaluation counts all."""
    if model.training:
        batch = replace(batch, mask=batch.mask & (torch.rand(batch.mask.shape) < 0.15))
    return next_token(model, batch)


def main() -> None:
    """Trains GPT-2 and its variants on the same batches, prints and draws their validation loss."""
    args = arguments("02-gpt", __doc__, steps=600, documents=8000)
    learn, unseen = texts(args.data, args.documents), texts(args.data, 120, first=10**6)
    tokenizer = Tokenizer.train(learn, 512)
    training, validation = Stream(tokenizer, learn), Stream(tokenizer, unseen)

    norm = LayerNorm.Config()
    mixer = Attention.Config(heads=HEADS, bias=True, output_bias=True)
    block = Block.Config(mixer=mixer, mlp=MLP.Config(hidden=4 * WIDTH, activation="gelu_tanh"), norm=norm)
    gpt2 = LanguageModel.Config(
        vocab=tokenizer.vocab_size,
        width=WIDTH,
        layers=(block,) * LAYERS,
        context=CONTEXT,
        norm=norm,
        tied=True,
        positions=LearnedPositions.Config(),
    )
    post = PostNormBlock.Config(mixer=mixer, mlp=block.mlp, norm=norm)
    variants = {
        "GPT-2": (gpt2.build(), next_token),
        "untied head": (replace(gpt2, tied=False).build(), next_token),
        "no positions": (replace(gpt2, positions=None).build(), next_token),
        "norm after the sum": (replace(gpt2, layers=(post,) * LAYERS).build(), next_token),
        "15 % of the places": (gpt2.build(), at_15_percent),
        "no causal mask": (UnmaskedModel(gpt2), next_token),
    }

    def held_out():
        return validation_batches(validation, CONTEXT, BATCH, packing="best_fit")

    curves, rows = [], []
    for name, (model, objective) in variants.items():
        batches = loader(training, BATCH, CONTEXT)  # the same batches for each
        steps, losses = zip(*train(model, batches, args.steps, 5e-3, held_out, objective=objective), strict=True)
        curves.append(Curve(name, steps, losses, points=True))
        rows.append([name, f"{model.parameter_count():,}", losses[-1]])
    table(["", "weights", "validation loss"], rows)
    Plot("GPT-2, and one decision taken back", "step", "nats per token of unseen text", curves).save(args.image)


if __name__ == "__main__":
    main()
