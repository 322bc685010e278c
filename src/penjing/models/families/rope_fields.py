"""Rotary positions in a Hugging Face config, in both layouts.

transformers 4 writes `rope_theta` and `rope_scaling` side by side; transformers 5 writes one `rope_parameters` with the
theta inside. Both are read; both are written, so that older and newer tools find what they look for.
"""

from collections.abc import Callable
from typing import Any

from penjing.errors import CheckpointError
from penjing.models.families.family import Fields
from penjing.nn.rope import DynamicScaling, LinearScaling, Llama3Scaling, Rope, Scaling, YarnScaling

ORIGINAL = "original_max_position_embeddings"
YARN_OPTIONS = {"attention_factor": "attention", "mscale": "mscale", "mscale_all_dim": "mscale_all_dim"}


def read_rope(config: Fields, default_theta: float = 10_000.0) -> Rope.Config:
    """The rope that a config describes."""
    parameters = config.values.get("rope_scaling") or config.values.get("rope_parameters") or {}
    if not isinstance(parameters, dict):
        raise CheckpointError(f"{config.place}: the rope parameters are {parameters!r}; an object is needed")
    fields = Fields({"rope_theta": config.values.get("rope_theta"), **parameters}, f"{config.place}, rope parameters")
    name = "type" if parameters.get("rope_type") is None else "rope_type"  # "type" is the older name
    kind = fields.choice(name, {kind: kind for kind in SCALINGS}, "default")
    context = config.integer("max_position_embeddings", 2048)
    trained = config.integer(ORIGINAL, fields.integer(ORIGINAL, context))
    for place in (config, fields):
        place.refuse("partial_rotary_factor", 1.0)
    return Rope.Config(
        theta=fields.number("rope_theta", default_theta, above=1),
        scaling=SCALINGS[kind](fields, context if kind == "dynamic" else trained),
    )


def write_rope(rope: Rope.Config) -> dict[str, Any]:
    """A rope as config fields, for transformers 4 and 5 alike."""
    scaling = _write_scaling(rope.scaling)
    return {
        "rope_theta": rope.theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope.theta, **(scaling or {})},
    }


def _yarn(fields: Fields, trained: int) -> YarnScaling:
    options = {"beta_fast": "beta_fast", "beta_slow": "beta_slow", **YARN_OPTIONS}
    given = [name for name in options if fields.values.get(name) not in (None, 0)]  # 0 is as good as left out
    return YarnScaling(
        factor=fields.number("factor", above=0),
        original_context=trained,
        truncate=fields.flag("truncate", True),
        **{options[name]: fields.number(name, above=0) for name in given},
    )


def _llama3(fields: Fields, trained: int) -> Llama3Scaling:
    low = fields.number("low_freq_factor", above=0)
    return Llama3Scaling(
        factor=fields.number("factor", above=0),
        low_freq_factor=low,
        high_freq_factor=fields.number("high_freq_factor", above=low),
        original_context=trained,
    )


SCALINGS: dict[str, Callable[[Fields, int], Scaling | None]] = {
    "default": lambda fields, trained: None,
    "linear": lambda fields, trained: LinearScaling(fields.number("factor", above=0)),
    "dynamic": lambda fields, trained: DynamicScaling(fields.number("factor", above=0), trained),
    "yarn": _yarn,
    "llama3": _llama3,
}


def _write_scaling(scaling: Scaling | None) -> dict[str, Any] | None:
    match scaling:
        case LinearScaling():
            return {"rope_type": "linear", "factor": scaling.factor}
        case DynamicScaling():
            return {"rope_type": "dynamic", "factor": scaling.factor}
        case Llama3Scaling():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                ORIGINAL: scaling.original_context,
            }
        case YarnScaling():
            options = {name: getattr(scaling, ours) for name, ours in YARN_OPTIONS.items()}
            return {
                "rope_type": "yarn",
                "factor": scaling.factor,
                ORIGINAL: scaling.original_context,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                **({} if scaling.truncate else {"truncate": False}),
                **{name: value for name, value in options.items() if value is not None},
            }
    return None
