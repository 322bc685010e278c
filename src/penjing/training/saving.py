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
from penjing.models.folder import load_model, write_into
from penjing.models.language_model import LanguageModel
from penjing.models.scored import ScoredModel
from penjing.models.scored_folder import load_scored, write_scored_into
from penjing.models.weights import fill
from penjing.training.tensor_files import facts, read_tensors, write_tensors

RECORD, WEIGHTS = "trainer.json", "model.safetensors"


def finish(folder: Path, record: Mapping[str, Any], files: Mapping[str, list[int | str]] | None = None) -> None:
    """Writes the record, once everything else is in the folder; `files` are those whose facts are known already."""
    known = dict(files or {})
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in known:
            known[name] = facts(file)
    write_json(folder / RECORD, {**record, "files": known})


class Together(nn.Module):
    """Models that are trained as one, and saved as the model folders that they are.

    The first one is the one that training is for: its files lie where a single model's would. Each other one has a
    folder beside them, by its attribute's name.
    """

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of all of them, for what is done to each block: compiling, computing again."""
        return nn.ModuleList(block for part in self.children() for block in getattr(part, "blocks", ()))


def parts_of(model: nn.Module) -> list[tuple[str, str, nn.Module]]:
    """The models that a module is made of: the folder of each within a checkpoint's, what its weights' names begin
    with, and itself. One alone is all of it.
    """
    if not isinstance(model, Together):
        return [("", "", model)]
    parts = enumerate(model.named_children())
    return [(name if number else "", f"{name}.", part) for number, (name, part) in parts]


def save_model(folder: Path, model: nn.Module, tokenizer: Any = None) -> None:
    """Writes a model: one that writes or scores texts as a Hugging Face folder, any other as its named tensors."""
    for place, _, part in parts_of(model):
        (folder / place).mkdir(exist_ok=True)
        if isinstance(part, ScoredModel):
            write_scored_into(folder / place, part, tokenizer)
        elif isinstance(part, LanguageModel):
            write_into(folder / place, part, tokenizer)
        else:
            write_tensors(folder / place / WEIGHTS, named_tensors(part))


def save_held(folder: Path, model: nn.Module, weights: Mapping[str, Tensor], tokenizer: Any = None) -> None:
    """Writes a model as `save_model` does, with other weights than its own."""
    for place, prefix, part in parts_of(model):
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if isinstance(part, LanguageModel):
            (folder / place).mkdir(exist_ok=True)
            save_model(folder / place, holding(part, own), tokenizer)
        else:
            write_tensors(folder / place / WEIGHTS, own)


def saved_tensors(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """The weights that `save_model` wrote of a model of this shape, by their names in it."""
    tensors: dict[str, Tensor] = {}
    for place, prefix, part in parts_of(model):
        own: Mapping[str, Tensor]
        if isinstance(part, ScoredModel):
            own = load_scored(folder / place).state_dict()
        elif isinstance(part, LanguageModel):
            own = load_model(folder / place).state_dict()
        else:
            own = read_tensors(folder / place / WEIGHTS)
        tensors |= {prefix + name: tensor for name, tensor in own.items()}
    return tensors


def check_savable(model: nn.Module) -> None:
    """Raises CheckpointError when no checkpoint could hold the model: better before hours of training than after."""
    for _, _, part in parts_of(model):
        if isinstance(part, LanguageModel):
            family_of(part.config)


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


def holding(model: LanguageModel, weights: Mapping[str, Tensor]) -> LanguageModel:
    """A model like this one that has these weights, not copies of them."""
    with torch.device("meta"):
        held = ScoredModel(model.config) if isinstance(model, ScoredModel) else model.config.build()
    if isinstance(model, ScoredModel) and isinstance(held, ScoredModel):
        held.offset = model.offset
    fill(held, dict(weights))
    return held


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that are part of the model's state."""
    state = model.state_dict().keys()
    return {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if name in state}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's tensors, "parameter name/what"."""
    return {f"{name}/{what}": tensor for name, p in names.items() for what, tensor in optimizer.state[p].items()}
