"""Requests made from our own OpenAPI document: none ends in a 5xx, every answer is what the document says.

Settings as other servers' suites have them: requests that the document allows, no NUL characters, and what the document
cannot say (that a model is known, that `top_logprobs` needs `logprobs`) may be refused. The model's name is put in
where a request has another, and what would be generated is kept to a few tokens: the examples are to reach the model.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.serving.api.conftest import MODEL
from tests.serving.documents import CHECKS, document_of

OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/responses", "POST"),
    ("/v1/embeddings", "POST"),
    ("/v1/moderations", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/health", "GET"),
]
MOST_TOKENS = 4
LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
}


@pytest.fixture(scope="module")
def document(served):
    return document_of(served.url)


def reach_the_model(path: str, body: Any) -> None:
    """Names the model, and asks for little."""
    if not isinstance(body, dict):
        return
    if "model" in body and path != "/v1/moderations":
        body["model"] = MODEL
    if path in LIMITS:
        body.pop("max_completion_tokens", None)
        body[LIMITS[path]] = MOST_TOKENS
    if "n" in body:
        body["n"] = 2
    if body.get("logit_bias"):
        body["logit_bias"] = {"5": 1.0}
    if isinstance(body.get("prompt"), list):
        body["prompt"] = [known(part) for part in body["prompt"]]


def known(part: Any) -> Any:
    """A part of a prompt with ids that the model has."""
    if isinstance(part, list):
        return [known(id) for id in part]
    return part % 256 if isinstance(part, int) else part


def run(served, document, path: str, method: str, examples: int) -> dict[int, int]:
    """Runs so many examples; how many had which status."""
    operation = document[path][method]
    statuses: dict[int, int] = {}

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case):
        reach_the_model(path, case.body)
        answer = case.call(base_url=served.url, timeout=60)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        case.validate_response(answer, checks=CHECKS)

    check()
    return statuses


def test_the_document_has_these_operations_and_no_others(document):
    """Beside them only what belongs to other parts: metrics and the page's session."""
    known = {operation.ok().path for operation in document.get_all_operations()}
    assert known - {"/metrics", "/api/session"} == {path for path, _ in OPERATIONS}


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_a_few_examples_of_each_operation(served, document, path, method):
    assert sum(run(served, document, path, method, 4).values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_fifty_examples_of_each_operation(served, document, path, method):
    statuses = run(served, document, path, method, 50)
    if path in LIMITS:
        assert statuses.get(200, 0) >= 5, statuses  # enough of them reach the model
