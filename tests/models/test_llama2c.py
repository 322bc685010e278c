"""llama2.c's files, with the real stories260K."""

import json
import shutil
import struct

import pytest
import torch
from typer.testing import CliRunner

import penjing
from penjing.cli import app
from penjing.errors import CheckpointError
from penjing.models.describe import describe
from penjing.models.folder import load_model
from penjing.models.language_model import LanguageModel

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high."
)


@pytest.fixture(scope="module")
def stories(data):
    return data / "weights/stories260K/stories260K.bin"


@pytest.mark.parametrize("cached", [True, False])
def test_stories260k_tells_the_story_that_it_is_known_for(cached, stories):
    """Greedy decoding, with a cache and without, gives exactly the text that llama2.c gives."""
    model, tokenizer = penjing.load(stories)
    ids = [tokenizer.bos_id, *tokenizer.encode("Once upon a time")]
    state = model.new_state(1) if cached else None
    step = torch.tensor([ids])
    while len(ids) < 110:
        logits = model(step, state=state) if cached else model(torch.tensor([ids]))
        ids.append(int(logits[0, -1].argmax()))
        step = torch.tensor([ids[-1:]])
    assert tokenizer.decode(ids, skip_special=True).strip().startswith(STORY)


def test_its_conversion_opens_in_transformers_and_computes_the_same(stories, tmp_path):
    """`penjing convert`, then AutoModelForCausalLM: logits within 1e-4 over 60 tokens."""
    from transformers import AutoModelForCausalLM

    result = CliRunner().invoke(app, ["convert", str(stories), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(512, (2, 60))
    torch.testing.assert_close(load_model(stories)(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    tokenizer = penjing.load(tmp_path / "out")[1]
    assert tokenizer.encode("Once upon a time") == penjing.load(stories)[1].encode("Once upon a time")


def test_conversion_changes_the_dtype_when_asked(stories, tmp_path):
    result = CliRunner().invoke(app, ["convert", str(stories), str(tmp_path / "out"), "--dtype", "bf16"])
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "out").embedding.weight.dtype == torch.bfloat16


def test_info_counts_what_is_there(stories):
    """Against counts by hand: 512 x 64 embeddings, 5 layers of 64 x (64 + 32 + 32 + 64) and 3 x 64 x 172, 11 norms."""
    result = CliRunner().invoke(app, ["info", str(stories), "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.output)
    mixers, perceptrons, norms = 5 * 64 * 192, 5 * 3 * 64 * 172, 11 * 64
    assert values["parameters"] == 512 * 64 + mixers + perceptrons + norms
    assert values["parameters_by_part"]["mixers"] == mixers
    assert values["cache_bytes_per_token_bf16"] == 5 * 2 * 32 * 2
    linear = 2 * (mixers + perceptrons + 512 * 64)
    assert values["flops_per_token"] == linear + 5 * 4 * 64
    assert values["flops_per_token_at_context"] == linear + 5 * 4 * 64 * 512
    assert values["tokenizer_tokens"] == 512
    assert "llama" in CliRunner().invoke(app, ["info", str(stories)]).output


def test_an_untied_head_is_read_from_the_end(stories, tmp_path):
    """A negative vocabulary in the header: the head follows; here it is the embedding doubled, so logits double."""
    content = bytearray(stories.read_bytes())
    content[20:24] = struct.pack("<i", -512)
    embedding = torch.frombuffer(bytearray(content[28 : 28 + 4 * 512 * 64]), dtype=torch.float32)
    path = tmp_path / "untied.bin"
    path.write_bytes(bytes(content) + (2 * embedding).numpy().tobytes())
    ids = torch.tensor([[1, 400, 7]])
    torch.testing.assert_close(load_model(path)(ids), 2 * load_model(stories)(ids))


def test_a_header_is_compared_with_the_files_size_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(LanguageModel, "__init__", lambda *_: pytest.fail("built"))
    path = tmp_path / "model.bin"
    for layers, message in ((900_000, "its header says"), (4096, "100 bytes, but its header asks for")):
        path.write_bytes(struct.pack("<7i", 64, 172, layers, 8, 4, 512, 512) + b"0" * 72)
        with pytest.raises(CheckpointError, match=message):
            load_model(path)


def test_damaged_files_are_errors(stories, tmp_path):
    path = tmp_path / "model.bin"
    content = stories.read_bytes()
    for damaged, message in (
        (content[:-1], "cut short"),
        (content + b"more", "its header asks for"),
        (content[:20], "too short"),
        (b"\xff" * 100, "no llama2.c model"),
        (struct.pack("<7i", *[2**30] * 7) + b"0" * 100, "no llama2.c model"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=message):
            load_model(path)
    shutil.copy(stories, path)
    with pytest.raises(CheckpointError, match="no tokenizer beside it"):
        penjing.load(path)
    assert describe(path).parameters == 260_032
