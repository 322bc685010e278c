"""A tiny language model with large random weights, so that its distributions are far from flat; a tiny tokenizer."""

from typing import Any

import torch

from penjing.models.families import family_of
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.tokenizer import Tokenizer
from penjing.tokenizer.bpe import BytePairModel

# whole words, parts of characters (盆 is e7 9b 86), and tokens that end in the middle of one
_WORDS = ("th", "he", "the", " the", " a", "in", "an", "\n\n", "User", "盆景", "，", "E", "ND")
_PARTS = (b"\xe7\x9b", b"\x86\xe6", b"a\xe7")


def tokenizer() -> Tokenizer:
    """Every byte, some words and some halves of characters; special tokens and ChatML."""
    tokens = [bytes([byte]) for byte in range(256)] + [word.encode() for word in _WORDS] + list(_PARTS)
    ranks = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return Tokenizer.around(BytePairModel.from_ranks(ranks, "gpt2"))


def model(
    vocab: int = 61, *, context: int = 64, seed: int = 0, window: int | None = None, dropout: float = 0.0
) -> LanguageModel:
    """Two grouped-query blocks, 32 wide, the same weights for the same seed."""
    block = Block.Config(
        mixer=Attention.Config(heads=4, kv_heads=2, rope=Rope.Config(), window=window),
        mlp=SwiGLU.Config(hidden=48),
        norm=RMSNorm.Config(),
        dropout=dropout,
    )
    built = LanguageModel.Config(
        vocab=vocab, width=32, layers=(block,) * 2, context=context, norm=RMSNorm.Config()
    ).build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in built.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.25, generator=generator)
    return built.eval()


def in_transformers(model: LanguageModel) -> Any:
    """The same model in transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    family = family_of(model.config)
    fields = {name: value for name, value in family.expresses(model.config).items() if name != "architectures"}
    theirs = LlamaForCausalLM(LlamaConfig(**fields)).eval()
    weights = dict(model.named_parameters())
    theirs.load_state_dict({name: stored.write(weights) for name, stored in family.table(model).items()})
    return theirs
