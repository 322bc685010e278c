"""Checks chapter 13: python docs/path/checks/13.py my_answer.py."""

import sys

import torch
from checking import Checks, differ

from penjing.models.families.glm import GLM
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.sequence import Sequence
from penjing.nn.swiglu import SwiGLU

checks = Checks()


@checks.exercise("from_pairs")
def _(from_pairs):
    generator = torch.Generator().manual_seed(1)
    for heads, head_dim, rotated in ((1, 4, 4), (1, 8, 8), (2, 4, 4), (3, 8, 4), (4, 16, 8), (2, 10, 6)):
        mixer = Attention.Config(heads=heads, head_dim=head_dim, rope=Rope.Config(fraction=rotated / head_dim))
        block = Block.Config(mixer=mixer, mlp=SwiGLU.Config(hidden=4), norm=RMSNorm.Config())
        model = LanguageModel.Config(4, 6, (block,), 8, RMSNorm.Config()).build()
        stored = GLM.table(model)["model.layers.0.self_attn.q_proj.weight"]
        weight = torch.randn(heads * head_dim, 6, generator=generator)
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        expected = stored.read(weight, shapes)[stored.names[0]]
        call = f"from_pairs(weight {tuple(weight.shape)}, {heads}, {rotated})"
        wrong = differ(call, from_pairs(weight.clone(), heads, rotated), expected, tolerance=0.0)
        if wrong:
            return wrong
    return None


@checks.exercise("reach")
def _(reach):
    context = 40
    for windows in ([None], [1], [5], [3, 3], [1, 7, 1], [4, 2, 9], [5, None], [None, 2, 2], [2] * 6):
        sees = torch.eye(context, dtype=torch.bool)
        positions = torch.arange(context)[None]
        for window in windows:  # whom a token sees directly, and through those
            sees = (Sequence(positions).mask(window)[0, 0].float() @ sees.float()) > 0
        count = int(sees[-1].sum())
        expected = None if count == context else count
        wrong = differ(f"reach({windows})", reach(list(windows)), expected)
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
