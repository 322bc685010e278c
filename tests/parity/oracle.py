"""Random transformers models and the same weights in Penjing, for every family."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from penjing.models.folder import load_model
from penjing.models.language_model import LanguageModel

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
DECODER: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "head_dim": 12,
    "bos_token_id": None,
    "eos_token_id": None,
}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    "linear, as transformers 4 wrote it": {"rope_scaling": {"type": "linear", "factor": 2.5}, "rope_theta": 5e3},
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        "max_position_embeddings": 16,
    },
    "yarn": {"rope_parameters": {**YARN, "rope_theta": 1e4}},
    "yarn, all options": {
        "rope_parameters": {
            **YARN,
            "rope_theta": 1e4,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all_dim": 1.3,
            "truncate": False,
        }
    },
    "yarn, given attention factor": {"rope_parameters": {**YARN, "rope_theta": 1e4, "attention_factor": 1.5}},
    "llama3": {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
}
LLAMA: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped heads": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "three groups of heads": {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8},
    "heads wider than the model": {"head_dim": 20, "num_key_value_heads": 2},
    "heads of 2": {"head_dim": 2},
    "attention bias": {"attention_bias": True, "num_key_value_heads": 2},
    "mlp bias": {"mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "far theta, large eps": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rms_norm_eps": 1e-2},
    **ROPES,
}
QWEN3: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped heads": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "heads wider than the model": {"head_dim": 20},
    "heads of 4": {"head_dim": 4},
    "attention bias": {"attention_bias": True},
    "tied": {"tie_word_embeddings": True},
    "window in all layers": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    "window in the upper layer": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "window in layers by name": {
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "window switched off": {"use_sliding_window": False, "sliding_window": 4},
    **{name: rope for name, rope in ROPES.items() if name != "yarn, all options"},
}
GPT2: dict[str, dict[str, Any]] = {
    "plain": {},
    "one head": {"n_head": 1},
    "twelve heads of 4": {"n_head": 12},
    "odd heads of 15": {"n_head": 3, "n_embd": 45},
    "narrow perceptron": {"n_inner": 30},
    "exact gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "squared relu": {"activation_function": "relu2"},
    "silu": {"activation_function": "silu"},
    "untied": {"tie_word_embeddings": False},
    "unscaled scores": {"scale_attn_weights": False},
    "scores scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "large eps": {"layer_norm_epsilon": 1e-2},
    "five layers": {"n_layer": 5},
}
GPT2_BASE = {"vocab_size": 97, "n_positions": 64, "n_embd": 48, "n_layer": 2, "n_head": 4}
CASES = [
    *(("llama", name) for name in LLAMA),
    *(("qwen3", name) for name in QWEN3),
    *(("gpt2", name) for name in GPT2),
]
FAMILIES = {"llama": (DECODER, LLAMA), "qwen3": (DECODER, QWEN3), "gpt2": (GPT2_BASE, GPT2)}


def random_model(family: str, case: str) -> PreTrainedModel:
    """A transformers model whose weights, norms and biases included, are far from their neutral values."""
    base, cases = FAMILIES[family]
    config = AutoConfig.for_model(family, **{**base, **cases[case]})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name or ".ln_" in name else 0.0, 0.2)
    return model


def pair(family: str, case: str, folder: Path) -> tuple[PreTrainedModel, LanguageModel]:
    """The same model twice: transformers', and ours read from the folder that transformers saved."""
    theirs = random_model(family, case)
    theirs.save_pretrained(folder)
    return theirs, load_model(folder)
