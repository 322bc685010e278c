"""The stage `instruct`: mixtures, thoughts, noise, kinds of rows; what it saves, and what is refused."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from penjing.data.instructions import InstructionLoader
from penjing.errors import ConfigError, DataError
from penjing.recipe import Recipe, run_stages
from penjing.stages import KINDS
from penjing.stages import training as stage
from penjing.tokenizer import Tokenizer
from tests.stages.test_stages import save_model

RECIPE = """
[world]
documents = 1
dialogues = 30
validation = 1
languages = ["en"]
[chat]
kind = "instruct"
model = "{folder}/base"
row = 1000
validation = 4
mixture = {{ world = 1, "{folder}/a.jsonl" = 3, "{folder}/never.jsonl" = 0 }}
[chat.training]
optimizer = "adamw"
precision = "fp32"
batch = 4
steps = 2
"""


def talk(*texts: str) -> dict:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A base model, ten conversations, in the last of which the assistant thinks, and others that are never read."""
    save_model(tmp_path / "base")
    talks = [talk(f"question {number}", f"answer {number}") for number in range(9)]
    talks.append(talk("a", "<think>\none\n</think>\n\nb", "c", "<think>\ntwo\n</think>\n\nd"))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, talks)))
    (tmp_path / "never.jsonl").write_text("no JSON")
    return tmp_path


def run(place: Path, *overrides: str) -> tuple[dict, str]:
    path = place / "tuned.toml"
    path.write_text(RECIPE.format(folder=place))
    output = Console(file=io.StringIO(), width=300)
    results = run_stages(Recipe.read(str(path), KINDS, overrides), place / "out", None, output)
    return results["chat"], output.file.getvalue()


def test_conversations_are_mixed_by_weights_and_kept_apart_for_validation(place, monkeypatch):
    """Of 4 for validation 1 is the world's and 3 are the file's; rows come by weights. Oracle: what the loader has."""
    seen = {}
    build = InstructionLoader.Config.over

    def over(config, sources):
        seen.update(config=config, sources=sources)
        return build(config, sources)

    monkeypatch.setattr(InstructionLoader.Config, "over", over)
    result, told = run(place, "chat.packing=grouped", "chat.turns=last", "chat.noise=5")
    assert [source.rendering.conversations for source in seen["sources"]] == [29, 7]
    assert seen["config"].weights == (0.25, 0.75)
    assert seen["config"].packing == "grouped"
    assert result["conversations"] == 36
    assert result["steps"] == 2
    assert "36 conversations" in told
    identity = json.loads((place / "out" / "chat" / "stage.json").read_text())["settings"]
    assert (identity["noise"], identity["turns"]) == (5, "last")


@pytest.mark.parametrize(("thinking", "kept"), [("last", False), ("all", True)])
def test_the_model_is_saved_with_the_template_that_it_was_trained_with(place, thinking, kept):
    run(place, f"chat.thinking={thinking}")
    template = Tokenizer.load(place / "out" / "chat" / "model").chat
    text = template.text(json.loads((place / "a.jsonl").read_text().splitlines()[-1])["messages"])
    assert ("one" in text) == kept
    assert "two" in text


def test_noise_reaches_the_objective_and_a_run_is_the_same_again(place, monkeypatch):
    objectives = []
    train = stage._train

    def note(*given, objective, **more):
        objectives.append(objective)
        return train(*given, objective=objective, **more)

    monkeypatch.setattr(stage, "_train", note)
    loud, _ = run(place, "chat.noise=10")
    still, _ = run(place, "chat.noise=0")
    assert [objective.noise for objective in objectives] == [10, 0]
    assert loud["validation_loss"] != still["validation_loss"]
    again, _ = run(place, "chat.noise=10")
    assert again["validation_loss"] == loud["validation_loss"]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["chat.mixture={ word = 1 }"], ConfigError, "mixes 'word', which is neither a world stage .* mean 'world'"),
        (["chat.mixture={ world = 0 }"], ConfigError, "at least one above 0"),
        (['chat.mixture={ "none.jsonl" = 1 }'], DataError, "there is no file or folder none.jsonl"),
        (["chat.data=a.jsonl"], ConfigError, "both data and mixture are given"),
        (
            ["chat.validation=9"],
            DataError,
            r"10 conversations in .*a\.jsonl, and 7 of them .* lower it with --set chat",
        ),
        (["chat.noise=-1"], ConfigError, "chat.*noise = -1"),
        (["chat.packing=stream"], ConfigError, "chat.*packing = 'stream'"),
    ],
)
def test_what_cannot_be_is_refused(place, overrides, error, message):
    if "validation=9" in overrides[0]:
        (place / "a.jsonl").write_text("\n".join(json.dumps(talk("a", "b")) for _ in range(7)))
        message = message.replace("10 conv", "7 conv")
    with pytest.raises(error, match=message):
        run(place, *overrides)
