"""Qwen3 (dense): LLaMA with a norm on each query and key head, and, in some layers, a sliding window.

Source: Yang et al., "Qwen3 Technical Report", 2025, arXiv:2505.09388, section 2; the names are those of transformers'
`Qwen3ForCausalLM`.
"""

from dataclasses import replace
from typing import Any

from penjing.errors import CheckpointError
from penjing.models.families import llama
from penjing.models.families.family import REQUIRED, Family, Fields
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.norms import RMSNorm

FULL, SLIDING = "full_attention", "sliding_attention"


def read(hf: Fields) -> LanguageModel.Config:
    """The composition of a Qwen3 config."""
    base = llama.read(Fields({"head_dim": 128, **hf.values, "mlp_bias": False}, hf.place))
    norm = RMSNorm.Config(eps=hf.number("rms_norm_eps", 1e-6))
    blocks = []
    for kind, block in zip(_layer_types(hf, len(base.layers)), base.layers, strict=True):
        assert isinstance(block.mixer, Attention.Config)
        window = hf.integer("sliding_window", _default(hf, "sliding_window", 4096)) if kind == SLIDING else None
        blocks.append(replace(block, mixer=replace(block.mixer, qk_norm=norm, window=window)))
    return replace(base, layers=tuple(blocks))


def _layer_types(hf: Fields, layers: int) -> list[str]:
    slides = hf.flag("use_sliding_window", False)
    given = hf.values.get("layer_types")
    if given is None and not slides:
        return [FULL] * layers
    if given is None:
        full = hf.integer("max_window_layers", _default(hf, "max_window_layers", 28), least=0)
        return [SLIDING if layer >= full else FULL for layer in range(layers)]
    if not isinstance(given, list) or len(given) != layers or not all(kind in (FULL, SLIDING) for kind in given):
        raise CheckpointError(
            f"{hf.place}: 'layer_types' must name '{FULL}' or '{SLIDING}' for each of {layers} layers"
        )
    return given if slides else [FULL] * layers


def _default(hf: Fields, name: str, value: int) -> Any:
    """What a field that is left out stands for; null does not stand for it."""
    return REQUIRED if name in hf.values else value


def write(config: LanguageModel.Config) -> dict[str, Any] | None:
    """The Qwen3 config of a composition."""
    fields = llama.write(config)
    if fields is None:
        return None
    windows = [getattr(layer.mixer, "window", None) for layer in config.layers]
    widest = max((window for window in windows if window is not None), default=None)
    del fields["mlp_bias"]
    return {
        **fields,
        "use_sliding_window": widest is not None,
        "sliding_window": widest,
        "max_window_layers": len(windows),
        "layer_types": [FULL if window is None else SLIDING for window in windows],
    }


QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    read=read,
    write=write,
    weights={
        **llama.WEIGHTS,
        "model.layers.{i}.self_attn.q_norm.weight": "blocks.{i}.mixer.query_norm.weight",
        "model.layers.{i}.self_attn.k_norm.weight": "blocks.{i}.mixer.key_norm.weight",
    },
)
