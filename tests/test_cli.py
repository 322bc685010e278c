"""The command line as a user meets it: help everywhere; for all that can be wrong a line or two and exit code 2."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import penjing
from penjing import cli
from penjing.models.language_model import LanguageModel
from penjing.stages.settings import Model
from penjing.tokenizer import Tokenizer

COMMANDS = ["run", "chat", "generate", "eval", "tokenizer", "info", "convert", "doctor"]


class Said:
    """What one call of the command line did."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def say(monkeypatch, capsys):
    """Calls `penjing WORDS` in this process."""

    def call(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["penjing", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


def tiny() -> tuple[LanguageModel, Tokenizer]:
    tokenizer = Tokenizer.train(["one two three four"], 259)
    model = Model(width=16, layers=1, heads=2, context=32).config(259).build()
    model.initialise(torch.Generator().manual_seed(1))
    return model, tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    penjing.save(tmp_path / "model", *tiny())
    return tmp_path / "model"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(say, command):
    said = say(command, "--help")
    assert said.code == 0
    assert f"penjing {command}" in said.out


def test_no_words_at_all_show_the_help(say):
    assert "run" in say().out


@pytest.fixture
def apart(folder: Path, tmp_path: Path) -> tuple[str, str]:
    """A model folder without a tokenizer, and the tokenizer elsewhere."""
    penjing.save(tmp_path / "bare", tiny()[0])
    tiny()[1].save(tmp_path / "words")
    return str(tmp_path / "bare"), str(tmp_path / "words")


def test_a_tokenizer_may_lie_elsewhere(say, folder, apart):
    options = ["--max-new-tokens", "5", "--temperature", "0", "--precision", "fp32"]
    together = say("generate", str(folder), "one two", *options)
    assert say("generate", apart[0], "one two", "--tokenizer", apart[1], *options).out == together.out
    scored = ["--skills", "--items", "1", "--base", "--json"]
    assert json.loads(say("eval", apart[0], "--tokenizer", apart[1], *scored).out)["skills"]


def test_without_one_what_needs_text_says_so_and_a_measurement_needs_none(say, apart):
    assert_refused(say("generate", apart[0], "one two"), "no tokenizer", apart[0])
    assert (
        say("bench", "generate", apart[0], "--prompt", "4", "--new", "4", "--requests", "1", "--rounds", "1").code == 0
    )


def assert_refused(said: Said, *parts: str) -> None:
    """Exit code 2 and a message of at most two lines with these parts, no traceback."""
    assert said.code == 2
    assert "Traceback" not in said.err
    assert len(said.err.strip().splitlines()) <= 2
    for part in parts:
        assert part in said.err


def test_a_missing_file_is_named(say):
    assert_refused(say("run", "shakespeare", "--data", "nowhere.txt"), "nowhere.txt")


def test_a_missing_model_is_named(say, tmp_path):
    assert_refused(say("generate", str(tmp_path / "nothing"), "Hello"), "nothing")


def test_an_empty_corpus_is_refused(say, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    assert_refused(
        say("run", "shakespeare", "--data", str(tmp_path / "empty.txt"), "--out", str(tmp_path / "out")), "empty.txt"
    )


def test_bytes_that_are_no_text_are_refused_with_their_place(say, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"good text\n" * 10 + b"\xff\xfe bad")
    said = say("run", "shakespeare", "--data", str(tmp_path / "bad.txt"), "--out", str(tmp_path / "out"))
    assert_refused(said, "bad.txt", "100")


def test_a_broken_line_of_jsonl_is_named(say, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "one"}\n{"text": two}\n')
    said = say("run", "shakespeare", "--data", str(tmp_path / "bad.jsonl"), "--out", str(tmp_path / "out"))
    assert_refused(said, "bad.jsonl", "2")


def test_a_misspelt_key_of_a_recipe_is_refused_with_the_nearest(say, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('data = "required"\n[tokenizer]\nvocub = 300\n')
    assert_refused(say("run", str(recipe)), "vocub", "did you mean 'vocab'")


def test_a_file_where_a_folder_is_needed_is_refused(say, tmp_path):
    (tmp_path / "README.md").write_text("a file")
    assert_refused(say("run", "tiny-chat", "--out", str(tmp_path / "README.md")), "README.md is a file", "--out")


def test_a_mistyped_key_of_a_recorded_curve_is_refused_before_the_run(say, tmp_path):
    (tmp_path / "mine.toml").write_text(RECIPE + "[curve]\nprogres = [1.0]\nbits_per_byte = [1.0]\n")
    said = say("run", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out"))
    assert_refused(said, "[curve]", "did you mean 'progress'")
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_below_256_is_refused(say, tmp_path):
    (tmp_path / "text.txt").write_text("one two three " * 50)
    said = say(
        "run",
        "shakespeare",
        "--data",
        str(tmp_path / "text.txt"),
        "--out",
        str(tmp_path / "out"),
        "--set",
        "tokenizer.vocab=200",
    )
    assert_refused(said, "256")


def test_a_text_longer_than_the_context_is_refused_with_both_numbers(say, folder):
    assert_refused(say("generate", str(folder), "one " * 40, "--max-new-tokens", "5"), "32")


def test_truncated_weights_are_refused(say, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert_refused(say("generate", str(folder), "one"), "model.safetensors")


def test_weights_of_another_shape_are_refused_by_name(say, folder):
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 2 * config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert_refused(say("generate", str(folder), "one"), "gate_proj")


def test_a_text_is_continued(say, folder):
    said = say("generate", str(folder), "one", "--max-new-tokens", "3", "--temperature", "0")
    assert said.code == 0
    model, tokenizer = penjing.load(folder)
    assert penjing.generate(model, tokenizer, "one", max_new_tokens=3, temperature=0) in said.out


def test_info_as_json_counts_the_weights(say, folder):
    model, _ = tiny()
    assert str(model.parameter_count()) in say("info", str(folder), "--json").out


RECIPE = """
[world]
documents = 60
dialogues = 60
validation = 10
[tokenizer]
vocab = 320
[shards]
[pretrain]
row = 64
validation_tokens = 512
[pretrain.model]
width = 16
layers = 1
heads = 2
context = 512
[pretrain.training]
steps = 3
batch = 2
precision = "fp32"
[chat]
kind = "instruct"
row = 512
validation = 5
[chat.training]
steps = 3
batch = 2
precision = "fp32"
[evaluate]
items = 1
"""


def test_a_recipe_runs_from_the_world_to_three_dialogues_and_again_for_nothing(say, tmp_path):
    """`make run` at a toy size: every stage's output is there, the report has its keys, a second run reuses all."""
    (tmp_path / "small.toml").write_text(RECIPE)
    words = ("run", str(tmp_path / "small.toml"), "--out", str(tmp_path / "out"))
    said = say(*words)
    assert said.code == 0, said.err
    assert said.out.count("penjing ") >= 3
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {"easy", "overall", "skills", "chance"} <= report["skills"].keys()
    assert report["losses"]["ln_vocab"] == pytest.approx(report["losses"]["first_training_loss"], abs=0.3)
    text = (tmp_path / "out" / "report.md").read_text()
    for picture in ("loss.png", "skills.png"):
        assert picture in text
        assert (tmp_path / "out" / picture).stat().st_size > 5_000
    again = say(*words, "--json")
    assert json.loads(again.out)["skills"] == report["skills"]
    assert again.err.count("reused") == 6
    shutil.rmtree(tmp_path / "out")
