"""A server on loopback with a tiny random model, and OpenAI's own client before it."""

from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

import penjing
from penjing.serving import server
from penjing.serving.app import create_app
from penjing.serving.registry import Source
from penjing.serving.settings import ServeSettings
from tests.inference import tiny

MODEL = "tiny"


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    url: str
    folder: Path
    app: object
    client: openai.OpenAI

    @property
    def backend(self):
        """The model's backend."""
        return self.app.state.backends._held[MODEL].backend

    @property
    def service(self):
        """Its engine's service."""
        return self.app.state.backends._held[MODEL].content

    @property
    def model(self):
        """The model itself, read anew."""
        return penjing.load(self.folder)[0]


def tiny_folder(folder: Path, *, context: int = 2400, seed: int = 0) -> Path:
    """A folder with a tiny random model, its tokenizer and ChatML."""
    tokenizer = tiny.tokenizer()
    penjing.save(folder, tiny.model(tokenizer.vocab_size, context=context, seed=seed), tokenizer)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("serving") / "tiny")


def settings_for(folder: Path, **options) -> ServeSettings:
    """Settings of a server with one model, no page and no filters unless asked for."""
    usual = {"page": False, "safety": False, "device": "cpu", "precision": "fp32"}
    return ServeSettings(models=(Source(MODEL, str(folder)),), **(usual | options))


@pytest.fixture(scope="session", params=["thread", pytest.param("process", marks=pytest.mark.slow)])
def served(model_folder, request):
    """A server whose engine is in a thread, and one whose engine is in a process of its own."""
    app = create_app(settings_for(model_folder, processes=request.param == "process"))
    with server.running(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield Served(url, model_folder, app, client)
