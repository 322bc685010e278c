"""What is not possible is answered with the right status, in OpenAI's shape, and named."""

import httpx2
import pytest

from tests.serving.api.conftest import MODEL

ASK = [{"role": "user", "content": "the"}]
CHAT = {"model": MODEL, "messages": ASK, "max_tokens": 4}
TOOL = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module")
def http(served):
    with httpx2.Client(base_url=served.url, timeout=60) as client:
        yield client


def fault(answer) -> dict:
    """An error's content; its shape is checked."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"functions": []}, "functions", "unsupported_parameter"),
        ({"metadata": {}}, "metadata", "unsupported_parameter"),
        ({"store": True}, "store", "invalid_value"),
        ({"modalities": ["audio"]}, "modalities[0]", "invalid_value"),
        ({"temperatur": 1}, "temperatur", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 100}, "n", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 5}, "max_tokens", None),
        ({"top_logprobs": 3}, "top_logprobs", None),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stream": True, "stream_options": {"odd": 1}}, "stream_options.odd", "unknown_parameter"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", None),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "name": "Bo"}]}, "messages[0].name", "unknown_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": "the " * 5000}]}, "messages", "context_length_exceeded"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format",
            None,
        ),
        ({"response_format": {"type": "yaml"}}, "response_format", "invalid_value"),
        ({"stop": [""]}, "stop[0]", "invalid_value"),
    ],
)
def test_a_conversation_that_cannot_be_answered_as_asked(http, change, param, code):
    answer = http.post("/v1/chat/completions", json=CHAT | change)
    assert answer.status_code == 400, answer.text
    error = fault(answer)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert code is None or error["code"] == code, error


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"model": MODEL, "prompt": "a", "suffix": "b"}, "suffix"),
        ("/v1/completions", {"model": MODEL, "prompt": "a", "best_of": 2}, "best_of"),
        ("/v1/completions", {"model": MODEL, "prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"model": MODEL, "prompt": ""}, "prompt"),
        ("/v1/completions", {"model": MODEL, "prompt": [99999]}, "prompt"),
        ("/v1/responses", {"model": MODEL, "input": "a", "previous_response_id": "r"}, "previous_response_id"),
        ("/v1/responses", {"model": MODEL, "input": "a", "store": True}, "store"),
        ("/v1/responses", {"model": MODEL, "input": "a", "reasoning": {"effort": "low"}}, "reasoning"),
        ("/v1/responses", {"model": MODEL, "input": "a", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ("/v1/embeddings", {"model": MODEL, "input": "a", "dimensions": 3}, "dimensions"),
        ("/v1/embeddings", {"model": MODEL, "input": ""}, "input"),
        ("/v1/embeddings", {"model": MODEL, "input": "the " * 5000}, "input"),
        ("/tokenize", {"prompt": "a", "messages": ASK}, "prompt"),
        ("/detokenize", {"tokens": [99999]}, "tokens"),
    ],
)
def test_other_requests_that_cannot_be_done(http, path, body, param):
    answer = http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert fault(answer)["param"] == param


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"])
def test_an_unknown_model_is_not_found(http, path):
    body = {"model": "tinny", "messages": ASK, "prompt": "a", "input": "a"}
    wanted = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}.get(path, "input")
    answer = http.post(path, json={"model": body["model"], wanted: body[wanted]})
    assert answer.status_code == 404
    error = fault(answer)
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert "did you mean 'tiny'" in error["message"]


def test_what_is_no_json_no_path_and_no_method(http):
    broken = http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, fault(broken)["code"]) == (400, "invalid_json")
    assert (http.post("/v1/nothing", json={}).status_code, http.delete("/v1/models").status_code) == (404, 405)
    fault(http.post("/v1/nothing", json={}))
    fault(http.delete("/v1/models"))
    fault(http.post("/v1/chat/completions", json=[]))


def test_an_error_in_a_streamed_request_is_a_status_not_an_event(http):
    answer = http.post("/v1/chat/completions", json=CHAT | {"stream": True, "messages": ASK * 3000})
    assert answer.status_code == 400
    assert fault(answer)["code"] == "context_length_exceeded"


def test_the_document_describes_every_field_and_every_error(http):
    """Each request is an object without further fields, each of which is described by its type; errors have a shape."""
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/moderations"):
        operation = document["paths"][path]["post"]
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/")[-1]
        assert schemas[name]["additionalProperties"] is False
        assert "422" not in operation["responses"]
        for status in ("4XX", "5XX"):
            content = operation["responses"][status]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorResponse"}
    assert schemas["ChatRequest"]["properties"]["temperature"]["description"]
