"""Checks chapter 2: python docs/path/checks/02.py my_answer.py."""

import sys

import torch
from checking import Checks, differ, first

from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.cross_entropy import cross_entropy
from penjing.nn.head import Head
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm
from penjing.nn.positions import LearnedPositions

checks = Checks()


@checks.exercise("next_token_loss")
def _(next_token_loss):
    generator = torch.Generator().manual_seed(1)
    for batch, seq, vocab, size in ((1, 2, 3, 1.0), (2, 9, 17, 1.0), (3, 33, 50, 30.0)):
        logits = size * torch.randn(batch, seq, vocab, generator=generator)
        tokens = torch.randint(vocab, (batch, seq), generator=generator)
        head = Head(vocab, vocab)  # the unit matrix: hidden vectors are the logits
        with torch.no_grad():
            head.weight.copy_(torch.eye(vocab))
            total = cross_entropy(logits[:, :-1], head, tokens[:, 1:], torch.ones(batch, seq - 1, dtype=torch.bool))
        call = f"next_token_loss(logits {batch, seq, vocab}, tokens)"
        wrong = differ(call, torch.as_tensor(next_token_loss(logits, tokens)), total / (batch * (seq - 1)))
        if wrong:
            return wrong
    return None


@checks.exercise("gpt2_weights")
def _(gpt2_weights):
    for vocab, width, layers, context in ((11, 8, 0, 5), (50, 16, 2, 32), (300, 24, 5, 7)):
        norm = LayerNorm.Config()
        mixer = Attention.Config(heads=4, bias=True, output_bias=True)
        config = LanguageModel.Config(
            vocab=vocab,
            width=width,
            layers=(Block.Config(mixer, MLP.Config(4 * width), norm),) * layers,
            context=context,
            norm=norm,
            tied=True,
            positions=LearnedPositions.Config(),
        )
        call = f"gpt2_weights({vocab}, {width}, {layers}, {context})"
        wrong = differ(call, gpt2_weights(vocab, width, layers, context), config.build().parameter_count())
        if wrong:
            return wrong
    # transformers counts the same for the published models
    return first(
        differ("gpt2_weights(50257, 768, 12, 1024)", gpt2_weights(50257, 768, 12, 1024), 124_439_808),
        differ("gpt2_weights(50257, 1600, 48, 1024)", gpt2_weights(50257, 1600, 48, 1024), 1_557_611_200),
    )


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
