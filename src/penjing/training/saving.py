"""How a checkpoint's files are written, and what of a run they hold."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penjing.files import write_json
from penjing.models.families import family_of
from penjing.models.folder import write_into
from penjing.models.language_model import LanguageModel
from penjing.models.weights import fill
from penjing.training.tensor_files import facts, write_tensors

RECORD, WEIGHTS = "trainer.json", "model.safetensors"


def finish(folder: Path, record: Mapping[str, Any], files: Mapping[str, list[int | str]] | None = None) -> None:
    """Writes the record, once everything else is in the folder; `files` are those whose facts are known already."""
    known = dict(files or {})
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in known:
            known[name] = facts(file)
    write_json(folder / RECORD, {**record, "files": known})


def save_model(folder: Path, model: nn.Module, tokenizer: Any = None) -> None:
    """Writes a model: a language model as a Hugging Face folder, any other module as its named tensors."""
    if isinstance(model, LanguageModel):
        write_into(folder, model, tokenizer)
    else:
        write_tensors(folder / WEIGHTS, named_tensors(model))


def check_savable(model: nn.Module) -> None:
    """Raises CheckpointError when no checkpoint could hold the model: better before hours of training than after."""
    if isinstance(model, LanguageModel):
        family_of(model.config)


def begun(work: Callable[[], None], background: bool) -> "Future[None]":
    """Does something, in a thread that nobody has to wait for if asked so."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    if background:
        threading.Thread(target=run, name="checkpoint", daemon=True).start()
    else:
        run()
    return done


def holding(config: LanguageModel.Config, weights: Mapping[str, Tensor]) -> LanguageModel:
    """A model that has these weights, not copies of them."""
    with torch.device("meta"):
        model = config.build()
    fill(model, dict(weights))
    return model


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that are part of the model's state."""
    state = model.state_dict().keys()
    return {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if name in state}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's tensors, "parameter name/what"."""
    return {f"{name}/{what}": tensor for name, p in names.items() for what, tensor in optimizer.state[p].items()}
