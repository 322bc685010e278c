"""What commands that use a model share: loading it where and how the user asks."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from penjing.inference.sampling import Sampling
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer

MODEL_HELP = (
    "A model folder, a .gguf file, a llama2.c .bin file, a nanoGPT .pt checkpoint, or hf:org/name from the Hugging "
    "Face hub (hf:org/name@revision for a branch, tag or commit)."
)
Model = Annotated[str, typer.Argument(help=MODEL_HELP, show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
TokenizerSource = Annotated[
    str | None,
    typer.Option("--tokenizer", help="Its tokenizer, when not with the model: a file, a folder, or hf:org/name."),
]
Precision = Annotated[str, typer.Option(help="fp32, bf16, or auto: the faster one here, as measured.")]


def load(model: str, device: str, precision: str, tokenizer: str | None = None) -> "tuple[LanguageModel, Tokenizer]":
    """The model and its tokenizer, on the device and in the precision asked for."""
    import penjing

    return penjing.load(model, tokenizer=tokenizer, **_where(device, precision))


def load_network(model: str, device: str, precision: str) -> "LanguageModel":
    """The model alone, for what needs no text."""
    from penjing.models.formats import load_model

    return load_model(model, **_where(device, precision))


def _where(device: str, precision: str) -> dict[str, Any]:
    from penjing.device import choose_device, choose_precision

    place = choose_device(device)
    dtype, _ = choose_precision(precision, place)
    return {"device": place, "dtype": dtype}


def preferred(model: str) -> "Sampling":
    """The settings that a model's `generation_config.json` prefers; the defaults where it says nothing."""
    from penjing.inference.sampling import Sampling
    from penjing.models.formats import read_generation

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    values = read_generation(model)
    settings: dict[str, Any] = {name: values[name] for name in names if values.get(name) is not None}
    if settings.get("top_k") == 0:
        del settings["top_k"]  # how transformers says "no limit"
    if values.get("do_sample") is False:
        settings["temperature"] = 0.0
    return Sampling.of(**settings)


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}
