"""Single stages, on texts and models of a few bytes, with what would take time replaced."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import penjing
from penjing.data import shards
from penjing.errors import ConfigError
from penjing.evaluation import skills
from penjing.recipe import Recipe, Stage, Workshop
from penjing.stages import training
from penjing.stages.data import Shards, TokenizerStage, World, text_of
from penjing.stages.evaluation import Evaluate
from penjing.stages.settings import Model, Training
from penjing.stages.training import Instruct, Pretrain
from penjing.tokenizer import Tokenizer
from penjing.training.deferred import begin
from penjing.training.trainer import Trainer
from tests.data.conftest import BYTES

TOKENIZER = Tokenizer.around(BYTES)
MODEL = Model(width=16, layers=1, heads=2, context=64)
TRAINING = Training(steps=1, batch=2)


def workshop(root: Path, stages: dict[str, Stage], name: str, data: Path | None = None) -> Workshop:
    (root / name).mkdir()
    given = None if data is None else str(data)
    return Workshop(root / name, root, Recipe("small", stages), given, Console(file=io.StringIO()), {})


def save_model(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 1) -> Path:
    model = MODEL.config(TOKENIZER.vocab_size).build()
    model.initialise(torch.Generator().manual_seed(seed))
    penjing.save(folder, model.to(dtype), TOKENIZER)
    return folder


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    """One document of 100 characters, the last 30 of them in upper case."""
    path = tmp_path / "novel.txt"
    path.write_text("abcdefg" * 10 + "ABCDEF" * 5)
    return path


def test_the_tokenizer_learns_from_no_text_that_the_shards_keep_for_validation(tmp_path, monkeypatch, novel):
    stages = {"tokenizer": TokenizerStage(vocab=259), "shards": Shards(validation=0.3)}
    seen = []

    def train(texts: Any, vocab: int, **options: Any) -> Tokenizer:
        seen.extend(texts)
        return TOKENIZER

    monkeypatch.setattr(Tokenizer, "train", train)
    place = workshop(tmp_path, stages, "tokenizer", novel)
    stages["tokenizer"].run(place)
    assert "".join(seen) == "abcdefg" * 10
    assert "".join(document.text for document in text_of(place)[1]) == "ABCDEF" * 5


def test_the_tokenizer_depends_on_the_split_of_the_users_text_alone(tmp_path, novel):
    stages = {"tokenizer": TokenizerStage(), "shards": Shards(validation=0.3), "more": Shards(validation=0.4)}
    place = workshop(tmp_path, stages, "tokenizer", novel)
    assert TokenizerStage().depends_on(place) == 0.4
    assert TokenizerStage(load="there").depends_on(place) is None
    place.data = None
    assert TokenizerStage().depends_on(place) is None


def test_stages_name_the_files_that_they_read():
    assert TokenizerStage(load="there").named_files() == ["there"]
    tuning = Instruct(training=TRAINING, data="talk.jsonl", model="base")
    assert [*tuning.named_files(), *tuning.named_models()] == ["talk.jsonl", "base"]
    assert [*Instruct(training=TRAINING).named_files(), *TokenizerStage().named_files()] == []


def test_validation_reads_rows_from_the_beginning_to_the_end_of_short_documents(tmp_path):
    """Oracle: the texts. Each row's documents are stretches of one text each, and targets are what follows there."""
    texts = [f"<{number}:{'x' * (number % 13)}>" for number in range(200)]
    held_out = shards.write(texts, TOKENIZER, tmp_path / "validation")
    batches = list(training._spread(held_out, tokens=10 * 32, row=32, batch=4))
    assert [len(batch.tokens) for batch in batches] == [4, 4, 2]
    assert held_out.tokens > 3 * 10 * 32
    assert bytes(batches[0].tokens[0, :4].tolist()) == b"<0:>"
    assert batches[-1].targets[batches[-1].mask][-1] == held_out.eos
    places = []
    for batch in batches:
        for row in range(len(batch.tokens)):
            numbers = batch.documents[row]
            for number in range(int(numbers.max()) + 1):
                ids = batch.tokens[row][numbers == number].tolist()
                wanted = batch.targets[row][numbers == number].tolist()
                assert ids[1:] == wanted[:-1]
                assert batch.positions[row][numbers == number].tolist() == list(range(len(ids)))
                whole = ids + wanted[-1:]
                assert any(bytes(i for i in whole if i < 256) in text.encode() for text in texts)
                assert TOKENIZER.eos_id not in ids
            begun = bytes(i for i in batch.tokens[row][numbers == 1].tolist())
            places.append(int(begun[1:].split(b":")[0]))
    assert places == sorted(places)
    assert places[5] in range(100, 125)


def test_validation_reads_all_of_a_short_text_once(tmp_path):
    held_out = shards.write(["one", "two three", "four"], TOKENIZER, tmp_path / "validation")
    batches = list(training._spread(held_out, tokens=64, row=8, batch=2))
    assert sum(batch.weight for batch in batches) == held_out.tokens - held_out.documents


def test_instruction_tuning_begins_from_a_folder_of_any_precision(tmp_path, monkeypatch):
    base = save_model(tmp_path / "base", torch.bfloat16)
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    data = tmp_path / "talk.jsonl"
    data.write_text(f"{json.dumps({'messages': turns})}\n" * 5)
    seen = []

    def train(place: Any, settings: Any, model: Any, *rest: Any, **more: Any) -> dict[str, Any]:
        seen.extend(model.parameters())
        return {}

    monkeypatch.setattr(training, "_train", train)
    stage = Instruct(training=TRAINING, data=str(data), model=str(base), validation=2)
    stage.run(workshop(tmp_path, {"chat": stage}, "chat"))
    assert seen
    assert {weight.dtype for weight in seen} == {torch.float32}


def test_measuring_uses_the_device_that_training_uses(tmp_path, monkeypatch):
    """Both models are loaded where `choose_device` says; there, that is a device that this machine need not have."""
    stages = {
        "world": World(languages=("en",)),
        "shards": Shards(),
        "pretrain": Pretrain(model=MODEL, training=TRAINING),
        "chat": Instruct(training=TRAINING),
        "measure": Evaluate(items=1),
    }
    for name in ("pretrain", "chat"):
        save_model(tmp_path / name / "model")
    for name in ("train", "validation"):
        shards.write(["one two three", "four five"], TOKENIZER, tmp_path / "shards" / name)
    devices, load = [], penjing.load

    def note(folder: Any, **options: Any) -> Any:
        devices.append(options["device"].type)
        return load(folder)

    monkeypatch.setattr(penjing, "load", note)
    monkeypatch.setattr("penjing.device.choose_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(skills, "evaluate", lambda *given, **options: skills.SkillReport({}, frozenset(), ()))
    measured = stages["measure"].run(workshop(tmp_path, stages, "measure"))
    assert devices == ["cuda", "cuda"]
    assert measured["bits_per_byte"] > 0


def test_a_tuned_width_reaches_the_first_weights_and_the_optimizer(tmp_path, monkeypatch, novel):
    """Twice as wide: the final gain starts at 1/2, hidden matrices with Muon at 1 / sqrt(2) of the rate."""
    monkeypatch.setattr(Tokenizer, "train", lambda *_, **__: TOKENIZER)
    shape = MODEL.model_copy(update={"hidden": 32, "tuned_width": 8})
    stages = {
        "tokenizer": TokenizerStage(vocab=259),
        "shards": Shards(validation=0.3),
        "pretrain": Pretrain(model=shape, training=TRAINING, row=8, validation_tokens=8),
    }
    seen: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def build(config: Any, model: Any, *_: Any, fill: Any, **__: Any) -> None:
        begin(model, torch.device("cpu"), fill)
        seen.update(optimizer=config.optimizer, model=model)
        raise Stop

    monkeypatch.setattr(Trainer.Config, "build", build)
    for name in ("tokenizer", "shards"):
        stages[name].run(workshop(tmp_path, stages, name, novel))
    stages["pretrain"].check()
    with pytest.raises(Stop):
        stages["pretrain"].run(workshop(tmp_path, stages, "pretrain", novel))
    assert seen["model"].norm.weight.unique().tolist() == [0.5]
    assert seen["optimizer"].rates["blocks.0.mixer.query.weight"] == pytest.approx(0.5**0.5)
    assert seen["optimizer"].adamw.rates == {"norm.weight": 0.5}


def test_a_tuned_width_that_cannot_be_is_refused_before_the_first_stage():
    with pytest.raises(ConfigError, match="tuned_width is 12"):
        Pretrain(model=MODEL.model_copy(update={"tuned_width": 12}), training=TRAINING).check()
