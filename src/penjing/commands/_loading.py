"""What commands that use a model share: loading it where and how the user asks."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from penjing.inference.chat_model import ChatModel
    from penjing.inference.sampling import Sampling
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer

MODEL_HELP = (
    "A model folder, a .gguf file, a llama2.c .bin file, a nanoGPT .pt checkpoint, or hf:org/name from the Hugging "
    "Face hub (hf:org/name@revision for a branch, tag or commit)."
)
CHAT_MODEL_HELP = (
    f"{MODEL_HELP} Or a model behind another server: openai:http://HOST:PORT/v1#MODEL, its API key in OPENAI_API_KEY."
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


def chat_model(model: str, device: str, precision: str) -> "ChatModel":
    """What answers conversations: a model here, or one behind another server (`openai:URL#MODEL`)."""
    from penjing.inference.remote import Endpoint, OpenAIChatModel, is_remote

    if is_remote(model):
        return OpenAIChatModel(Endpoint.of(model), name=model)
    from penjing.inference.local import LocalChatModel

    return LocalChatModel(*load(model, device, precision), name=model)


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
    from penjing.inference import sampling
    from penjing.models.formats import read_generation

    return sampling.preferred(read_generation(model))


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}
