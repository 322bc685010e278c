"""`penjing serve`: what it refuses before it serves, and that it serves."""

import os
import subprocess
import sys

import httpx2
import pytest
from typer.testing import CliRunner

import penjing
from penjing.cli import app
from penjing.errors import PenjingError
from tests.inference import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = tiny.tokenizer()
    place = tmp_path_factory.mktemp("serve") / "tiny"
    penjing.save(place, tiny.model(tokenizer.vocab_size, context=128), tokenizer)
    return str(place)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no model to serve"),
        (["no/such/folder"], "no/such/folder"),
        (["FOLDER", "FOLDER"], "two models are called 'tiny'; name them: NAME=MODEL"),
        (["FOLDER", "--host", "0.0.0.0"], "no API key"),
        (["FOLDER", "--log-level", "loud"], "no log level 'loud'"),
        (["FOLDER", "--policy", "no.toml"], "no.toml"),
        (["FOLDER", "--moderator", "nowhere"], "nowhere"),
        (["--backend", "openai:nonsense"], "names no server"),
        (["--backend", "openai:http://127.0.0.1:9/v1"], "127.0.0.1:9"),
        (["FOLDER", "--certificate", "cert.pem"], "--private-key"),
    ],
)
def test_what_cannot_be_served_is_a_line_that_says_why(folder, options, message, monkeypatch):
    """Before any weight is read or any address is taken."""
    monkeypatch.setattr("penjing.inference.remote.pause_before", lambda *_: 0.0)
    monkeypatch.setattr("penjing.serving.remote.pause_before", lambda *_: 0.0)
    arguments = [folder if option == "FOLDER" else option for option in options]
    said = CliRunner().invoke(app, ["serve", *arguments, "--no-page", "--port", "0"])
    assert isinstance(said.exception, PenjingError), said.output
    assert message in str(said.exception)


@pytest.mark.slow
def test_it_prints_its_address_serves_there_and_ends_when_told(folder):
    """A process of its own, on a free port; ended by SIGTERM, with the exit code that uvicorn gives then."""
    command = [sys.executable, "-m", "penjing.cli", "serve", f"mine={folder}", "--port", "0", "--no-page"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving mine at http://127.0.0.1:")
            url = line.split()[-1]
            assert httpx2.get(f"{url}/health").json() == {"status": "ok"}
            body = {"model": "mine", "messages": [{"role": "user", "content": "the"}], "max_tokens": 3}
            answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60)
            assert answer.json()["usage"]["completion_tokens"] <= 3
            assert "penjing_first_token_seconds_count" in httpx2.get(f"{url}/metrics").text
        finally:
            process.terminate()
        assert process.wait(60) is not None
