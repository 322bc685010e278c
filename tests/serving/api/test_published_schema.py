"""Answers and events against two published forms of OpenAI's specification.

`openai_schema.json` is a cut of the specification itself; the types of OpenAI's Python client are generated from a
newer one, and their JSON schemas hold for what the cut does not have.
"""

import json
from pathlib import Path

import httpx2
import jsonschema
import pytest
from openai.types import CreateEmbeddingResponse, Model, ModerationCreateResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from penjing.serving import server
from penjing.serving.app import create_app
from tests.serving.api.conftest import MODEL, settings_for
from tests.serving.api.test_client import ASK, CLOCK, WEATHER

CUT = json.loads((Path(__file__).parent / "openai_schema.json").read_text())
CHAT = {"model": MODEL, "messages": ASK, "temperature": 0, "max_tokens": 8}
TOOLS = {**CHAT, "max_tokens": 130, "tools": [WEATHER, CLOCK], "tool_choice": "required"}


def check(value, component: str) -> None:
    """Validates against a component of the cut."""
    jsonschema.validate(value, {**CUT, "$ref": f"#/$defs/{component}"})


def typed(value, kind) -> None:
    """Validates against the client's type: strictly, with nothing turned into anything else."""
    TypeAdapter(kind).validate_json(json.dumps(value), strict=True)


@pytest.fixture
def post(served):
    with httpx2.Client(base_url=served.url, timeout=60) as client:

        def send(path, **body):
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return answer

        yield send


def events(answer) -> list:
    """The data of server-sent events, without the last word."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("asked", [CHAT, {**CHAT, "logprobs": True, "top_logprobs": 2, "n": 2}, TOOLS])
def test_chat_completions(post, asked):
    answer = post("/v1/chat/completions", **asked).json()
    check(answer, "CreateChatCompletionResponse")
    typed(answer, ChatCompletion)
    stream = post("/v1/chat/completions", **asked, stream=True, stream_options={"include_usage": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.text.endswith("data: [DONE]\n\n")
    for chunk in events(stream):
        check(chunk, "CreateChatCompletionStreamResponse")
        typed(chunk, ChatCompletionChunk)


def test_completions(post):
    asked = {"model": MODEL, "prompt": ["the", "an"], "max_tokens": 5, "logprobs": 2, "temperature": 0}
    for answer in [post("/v1/completions", **asked).json(), *events(post("/v1/completions", **asked, stream=True))]:
        check(answer, "CreateCompletionResponse")
    typed(post("/v1/completions", **asked).json(), Completion)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"top_logprobs": 2, "instructions": "Be kind.", "metadata": {"a": "b"}},
        {"text": {"format": {"type": "json_schema", "name": "yes", "schema": {"enum": [True]}}}},
        {"tools": [{"type": "function", **WEATHER["function"]}], "tool_choice": "required", "max_output_tokens": 130},
    ],
)
def test_responses(post, more):
    asked = {"model": MODEL, "input": "the", "temperature": 0, "max_output_tokens": 8} | more
    typed(post("/v1/responses", **asked).json(), Response)
    for event in events(post("/v1/responses", **asked, stream=True)):
        typed(event, ResponseStreamEvent)


def test_embeddings_and_models(served, post):
    typed(post("/v1/embeddings", model=MODEL, input="the").json(), CreateEmbeddingResponse)
    typed(httpx2.get(f"{served.url}/v1/models/{MODEL}").json(), Model)


def test_moderations(model_folder):
    """With a classifier that says what the test wants: the names that it lacks are there, and not applied."""
    from penjing.serving.safety.moderator import Judged

    class Judge:
        def judge(self, texts):
            return [Judged(text == "bad", ("hate",) if text == "bad" else (), {"hate": 0.7, "odd": 0.1}, 0.7)
                    for text in texts]  # fmt: skip

    app = create_app(settings_for(model_folder))
    app.state.moderator = Judge()
    with server.running(app) as url:
        answer = httpx2.post(f"{url}/v1/moderations", json={"input": ["bad", "good"]}).json()
    check(answer, "CreateModerationResponse")
    typed(answer, ModerationCreateResponse)
    bad, good = answer["results"]
    assert bad["flagged"]
    assert [bad["categories"]["hate"], good["categories"]["hate"]] == [True, False]
    assert bad["category_scores"]["hate"] == 0.7
    assert bad["category_applied_input_types"]["illicit"] == []
    assert bad["category_applied_input_types"]["odd"] == ["text"]
