"""Which source is what, and what can be written where."""

from types import SimpleNamespace

import pytest
import torch

import penjing
from penjing.errors import CheckpointError, ConfigError, PenjingError, TokenizerError
from penjing.models import formats
from penjing.tokenizer import Tokenizer
from tests.inference import tiny


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture
def folder(tmp_path, tokenizer):
    penjing.save(tmp_path / "model", tiny.model(tokenizer.vocab_size), tokenizer, generation={"temperature": 0.5})
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "config.json", "noending", "model.pth"])
def test_a_file_of_an_unknown_kind_is_an_error_that_lists_the_known_ones(name, tmp_path):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(CheckpointError) as caught:
        penjing.load(tmp_path / name)
    for known in ("folder", ".gguf", ".bin", ".pt", "hf:org/name", name):
        assert known in str(caught.value)
    assert ("its folder" in str(caught.value)) == name.endswith(("safetensors", "json"))


def test_what_is_not_there_is_an_error_that_thinks_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no model at Qwen/Qwen3-0\.6B; .* write hf:Qwen/Qwen3-0\.6B"):
        penjing.load("Qwen/Qwen3-0.6B")
    with pytest.raises(CheckpointError, match=r"no model at .*nowhere$"):
        penjing.load(tmp_path / "nowhere")


def test_a_tokenizer_that_does_not_fit_is_an_error_before_any_weight_is_read(folder, tokenizer, monkeypatch):
    penjing.save(folder, tiny.model(tokenizer.vocab_size - 1), tokenizer)
    monkeypatch.setattr("penjing.models.folder.stream_weights", lambda *_: pytest.fail("weights were read"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=f"{tokenizer.vocab_size} tokens.*they do not belong together"):
        penjing.load(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_tokenizer_elsewhere_is_named_by_its_place(folder, tokenizer, tmp_path):
    other = Tokenizer.train(["a tray, a tree"], 261)
    (tmp_path / "other").mkdir()
    other.save(tmp_path / "other")
    assert penjing.load(folder, tokenizer=tmp_path / "other")[1].vocab_size == 261
    assert penjing.load(folder)[1].vocab_size == tokenizer.vocab_size
    with pytest.raises(TokenizerError, match="nowhere"):
        penjing.load(folder, tokenizer=tmp_path / "nowhere")


def test_gguf_files_go_to_their_module(tmp_path, monkeypatch, tokenizer):
    """With the arguments that they were given with, and only then is the module imported."""
    calls = []
    model = tiny.model(tokenizer.vocab_size)
    module = SimpleNamespace(
        read_config=lambda path: model.config,
        load_tokenizer=lambda path: tokenizer,
        load_model=lambda path, *, device, dtype: calls.append((path, device, dtype)) or model,
        save=lambda *args, **options: calls.append((*args, options)),
    )
    monkeypatch.setattr(formats, "import_module", lambda name: {"penjing.models.gguf": module}[name])
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    assert penjing.load(path, dtype=torch.bfloat16) == (model, tokenizer)
    formats.save(path, model, tokenizer, quantization="q8_0")
    formats.save(path, model, tokenizer)
    assert calls == [
        (path, "cpu", torch.bfloat16),
        (path, model, tokenizer, {"quantization": "q8_0"}),
        (path, model, tokenizer, {}),
    ]


def test_preferences_are_read_from_folders_and_are_empty_elsewhere(folder, tmp_path):
    assert formats.read_generation(folder)["temperature"] == 0.5
    assert formats.read_generation(tmp_path / "model.bin") == {}


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("out/ckpt.pt", {}, r"written as a folder, \.gguf or \.bin \(llama2\.c\), not \.pt"),
        ("model.safetensors", {}, r"not \.safetensors"),
        ("hf:org/name", {}, "does not upload"),
        ("folder", {"quantization": "q8_0"}, r"quantization is 'q8_0', which is for \.gguf files"),
        ("model.bin", {"quantization": "q8_0"}, r"for \.gguf files"),
        ("model.gguf", {"max_shard_size": 10}, "is one file"),
        ("folder", {"max_shard_size": 0}, "max_shard_size is 0"),
    ],
)
def test_what_cannot_be_written_is_an_error_before_anything_is(
    target, options, message, tmp_path, monkeypatch, tokenizer
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PenjingError, match=message) as caught:
        penjing.save(target, tiny.model(tokenizer.vocab_size), tokenizer, **options)
    assert isinstance(caught.value, ConfigError if options else CheckpointError)
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_a_dot_is_a_folder(tmp_path, tokenizer):
    penjing.save(tmp_path / "model-0.5", tiny.model(tokenizer.vocab_size), tokenizer)
    assert (tmp_path / "model-0.5" / "config.json").is_file()
