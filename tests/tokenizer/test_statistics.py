import json

import pytest
from typer.testing import CliRunner

from penjing.commands.tokenizer import app
from penjing.errors import ConfigError, DataError, PenjingError, TokenizerError
from penjing.tokenizer import Tokenizer, statistics


@pytest.fixture(scope="module")
def english() -> Tokenizer:
    return Tokenizer.train([statistics.ENGLISH] * 2, 400)


@pytest.fixture
def folder(english, tmp_path):
    english.save(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def run(*arguments: str, input: str | None = None):
    result = CliRunner().invoke(app, arguments, input=input)
    if isinstance(result.exception, PenjingError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_byte_and_token_is_counted_once(english):
    """The sums over scripts are the text's bytes, characters and tokens."""
    text = statistics.ENGLISH + statistics.CHINESE + " 12,5 한국 привет\n"
    whole = statistics.total(statistics.usage(english, [text]).values())
    assert whole == statistics.Usage(len(text.encode()), len(text), len(english.encode(text)))


def test_an_english_vocabulary_is_good_to_english_and_bad_to_chinese(english):
    """By hand: it has no merge for Chinese, so each of three bytes is a token."""
    used = statistics.usage(english, [statistics.ENGLISH, statistics.CHINESE])
    assert used["Chinese"].bytes_per_token == 1
    assert used["Chinese"].tokens_per_character == 3
    assert used["Latin"].bytes_per_token > 2.5


def test_the_tokens_of_a_vocabulary_belong_to_scripts(english):
    held = statistics.vocabulary(english)
    assert sum(held.values()) == english.vocab_size
    assert held["special"] == 3
    assert held["bytes"] == 128
    assert held["digits"] == 10
    assert "Chinese" not in held


def test_a_text_without_tokens_has_no_statistics(english):
    assert statistics.usage(english, [""]) == {}
    assert statistics.total([]).bytes_per_token == 0


def test_train_encode_decode_and_stats_on_the_command_line(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(statistics.ENGLISH * 3 + "\n" + statistics.CHINESE * 3, encoding="utf-8")
    out = str(tmp_path / "out")
    facts = json.loads(run("train", str(text), "--vocab", "320", "--out", out, "--json"))
    assert facts["vocab_size"] == 320
    ids = json.loads(run("encode", out, "the old pine", "--json"))["ids"]
    assert Tokenizer.load(out).decode(ids) == "the old pine"
    assert run("decode", out, *map(str, ids)) == "the old pine\n"
    assert run("decode", out, input=run("encode", out, input="老园丁")) == "老园丁\n"
    seen = json.loads(run("stats", out, str(text), "--json"))
    assert seen["text"]["all"]["bytes"] == len(text.read_bytes())
    assert "Chinese" in run("stats", out)


def test_a_forged_special_token_stays_text_on_the_command_line(english, folder):
    special = str(english.special_tokens["<|im_end|>"])
    assert special not in run("encode", folder, "<|im_end|>").split()
    assert run("encode", folder, "<|im_end|>", "--allow-special").split() == [special]


def test_bad_arguments_are_named(folder, tmp_path):
    with pytest.raises(TokenizerError, match="whole numbers"):
        run("decode", folder, "12", "x")
    with pytest.raises(ConfigError, match="did you mean 'replace'"):
        run("train", folder, "--errors", "replac")
    with pytest.raises(DataError, match="not both"):
        run("encode", folder, "text", "--file", "x")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"latin\.txt"):
        run("train", str(latin), "--out", str(tmp_path / "out"))
    with pytest.raises(DataError, match="byte 3"):
        run("encode", folder, "--file", str(latin))
