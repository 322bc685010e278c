"""Requests made from our own OpenAPI document: none ends in a 5xx, every answer is what the document says.

Where a request names a conversation or a message, it is often one that exists, so that the examples reach the store.
"""

import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from penjing.serving import server
from penjing.serving.conversations.router import ROUTES
from penjing.serving.conversations.store import Store
from penjing.serving.limits import Limits
from tests.serving.conversations.fakes import application
from tests.serving.documents import CHECKS, document_of

OPERATIONS = [("/api" + path, method) for method, path, _, _ in ROUTES]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    store = Store.open(tmp_path_factory.mktemp("chats") / "chats.db", serve=True)
    with server.running(application(store), Limits()) as url:  # its end closes the store
        yield store, document_of(url), url


def run(served, path, method, examples):
    store, document, url = served
    statuses = {}

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=document[path][method].as_strategy())
    def check(case):
        chat = store.create("local", title="t")
        _, reply = store.ask("local", chat.id, "Hi")
        store.replies.finish(reply.id, content="Hello")
        if "id" in case.path_parameters and random.Random(str(case.path_parameters)).random() < 0.7:
            case.path_parameters["id"] = chat.id
            if "message" in case.path_parameters:
                case.path_parameters["message"] = reply.id
        if isinstance(case.body, dict) and "parent" in case.body and len(str(case.body["parent"])) % 2:
            case.body["parent"] = reply.id
        answer = case.call(base_url=url, timeout=30)
        case.validate_response(answer, checks=CHECKS)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1

    check()
    return statuses


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_that_the_document_allows_ends_badly(served, path, method):
    """2 examples each, for what they cost."""
    run(served, path, method, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_of_fifty_that_the_document_allows_ends_badly(served, path, method):
    """Some of them reach the store: not all are refused."""
    statuses = run(served, path, method, 50)
    assert any(status < 400 for status in statuses), statuses
