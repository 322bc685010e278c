"""GPT-2: learned positions, LayerNorm, one fused projection for queries, keys and values, stored transposed.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the names are those of
transformers' `GPT2LMHeadModel`.
"""

from typing import Any

from penjing.models.families.family import Family, Fields, Stored, parts_of
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.mlp import MLP
from penjing.nn.norms import LayerNorm
from penjing.nn.positions import LearnedPositions

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
}
THEIR_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}


def read(hf: Fields) -> LanguageModel.Config:
    """The composition of a GPT-2 config."""
    hf.refuse("add_cross_attention", False)
    width, heads, layers = hf.integer("n_embd"), hf.integer("n_head"), hf.layers("n_layer")
    norm = LayerNorm.Config(eps=hf.number("layer_norm_epsilon", 1e-5))
    base = max(width // heads, 1) ** -0.5 if hf.flag("scale_attn_weights", True) else 1.0
    shrinks = hf.flag("scale_attn_by_inverse_layer_idx", False)

    def block(layer: int) -> Block.Config:
        return Block.Config(
            mixer=Attention.Config(
                heads=heads,
                bias=True,
                output_bias=True,
                scale=base / (layer + 1) if shrinks else base,
                dropout=hf.number("attn_pdrop", 0.1),
            ),
            mlp=MLP.Config(
                hidden=hf.integer("n_inner", 4 * width),
                activation=hf.choice("activation_function", ACTIVATIONS, "gelu_new"),
            ),
            norm=norm,
            dropout=hf.number("resid_pdrop", 0.1),
        )

    return LanguageModel.Config(
        vocab=hf.integer("vocab_size"),
        width=width,
        layers=tuple(map(block, range(layers))),
        context=hf.integer("n_positions", 1024),
        norm=norm,
        tied=hf.flag("tie_word_embeddings", True),
        positions=LearnedPositions.Config(),
        embedding_dropout=hf.number("embd_pdrop", 0.1),
        init_std=hf.number("initializer_range", 0.02),
    )


def write(config: LanguageModel.Config) -> dict[str, Any] | None:
    """The GPT-2 config of a composition."""
    parts = parts_of(config, MLP.Config, LayerNorm.Config)
    if parts is None:
        return None
    attention, mlp, norm = parts
    scales = [getattr(layer.mixer, "scale", None) for layer in config.layers]
    return {
        "vocab_size": config.vocab,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": len(config.layers),
        "n_head": attention.heads,
        "n_inner": mlp.hidden,
        "activation_function": THEIR_ACTIVATIONS[mlp.activation],
        "layer_norm_epsilon": norm.eps,
        "scale_attn_weights": scales[0] != 1.0,
        "scale_attn_by_inverse_layer_idx": len(set(scales)) > 1,
        "attn_pdrop": attention.dropout,
        "resid_pdrop": config.layers[0].dropout,
        "embd_pdrop": config.embedding_dropout,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied,
    }


def _linear(stored: str, *ours: str) -> dict[str, Stored]:
    """Weight and bias of a map that is stored as `(inputs, outputs)`."""
    return {
        f"{stored}.weight": Stored(*(f"{name}.weight" for name in ours), transposed=True),
        f"{stored}.bias": Stored(*(f"{name}.bias" for name in ours)),
    }


QKV = ("blocks.{i}.mixer.query", "blocks.{i}.mixer.key", "blocks.{i}.mixer.value")

GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    read=read,
    write=write,
    weights={
        "transformer.wte.weight": "embedding.weight",
        "transformer.wpe.weight": "learned_positions.table.weight",
        "transformer.h.{i}.ln_1.weight": "blocks.{i}.mixer_norm.weight",
        "transformer.h.{i}.ln_1.bias": "blocks.{i}.mixer_norm.bias",
        **_linear("transformer.h.{i}.attn.c_attn", *QKV),
        **_linear("transformer.h.{i}.attn.c_proj", "blocks.{i}.mixer.output"),
        "transformer.h.{i}.ln_2.weight": "blocks.{i}.mlp_norm.weight",
        "transformer.h.{i}.ln_2.bias": "blocks.{i}.mlp_norm.bias",
        **_linear("transformer.h.{i}.mlp.c_fc", "blocks.{i}.mlp.up"),
        **_linear("transformer.h.{i}.mlp.c_proj", "blocks.{i}.mlp.down"),
        "transformer.ln_f.weight": "norm.weight",
        "transformer.ln_f.bias": "norm.bias",
        "lm_head.weight": "head.weight",
    },
    ignored=(r".*\.attn\.(bias|masked_bias)",),
    prefix="transformer.",
)
