"""The safety policy before and behind the model: what is blocked is not said, what is redacted is not read or shown.

A model that says what the test wants stands in for the real one; the policy is one that does what the test wants.
"""

import json

import httpx2
import pytest

from penjing.inference.chat_model import End, Text, ToolCall, Usage
from penjing.inference.sampling import DEFAULT
from penjing.serving import server
from penjing.serving.app import create_app
from penjing.serving.backend import Chosen
from penjing.serving.safety.policy import Policy
from penjing.serving.settings import ServeSettings


class Parrot:
    """Says given pieces, and remembers what it was asked."""

    name, context, defaults = "parrot", 1000, DEFAULT

    def __init__(self):
        self.pieces: list = []
        self.asked = None
        self.closed = 0

    def count(self, messages, tools=()):
        return 7

    async def answer(self, ask):
        self.asked = ask
        try:
            for piece in self.pieces:
                yield piece
            yield End("stop", Usage(7, len(self.pieces)), ())
        finally:
            self.closed += 1


@pytest.fixture(scope="module")
def parrot():
    return Parrot()


@pytest.fixture(scope="module")
def http(parrot, tmp_path_factory):
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text('[words]\ninput = "block"\noutput = "block"\ntool = "block"\nwords = ["dragonfire"]\n')
    app = create_app(ServeSettings(remotes=(object(),), page=False, safety=False))
    app.router.lifespan_context = _nothing
    app.state.backends.add("parrot", parrot)
    app.state.policy = Policy.read(policy)
    with server.running(app) as url, httpx2.Client(base_url=url, timeout=30) as client:
        yield client


class _nothing:
    """In the place of the lifespan, which would look for the server of a remote model."""

    def __init__(self, app):
        pass

    async def __aenter__(self):
        return None

    async def __aexit__(self, *fault):
        return None


def ask(http, parrot, text="hello", *pieces, **more) -> dict:
    """The whole answer, after the stream was found to say the same."""
    parrot.pieces, parrot.asked = list(pieces), None
    body = {"model": "parrot", "messages": [{"role": "user", "content": text}]} | more
    whole = http.post("/v1/chat/completions", json=body)
    assert whole.status_code == 200, whole.text
    (choice,) = whole.json()["choices"]
    stream = http.post("/v1/chat/completions", json=body | {"stream": True}).text
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    deltas = [c["choices"][0] for c in chunks]
    assert "".join(d["delta"].get("content") or "" for d in deltas) == (choice["message"]["content"] or "")
    assert deltas[-1]["finish_reason"] == choice["finish_reason"]
    return choice


def test_what_is_harmless_passes_as_it_is(http, parrot):
    choice = ask(http, parrot, "hello", Text("A fine day. "), Text("Is it not?"))
    assert choice["message"]["content"] == "A fine day. Is it not?"
    assert choice["finish_reason"] == "stop"


def test_a_blocked_question_is_not_put_to_the_model(http, parrot):
    choice = ask(http, parrot, "tell me of dragonfire", Text("Well."))
    assert parrot.asked is None
    assert choice["finish_reason"] == "content_filter"
    assert "safety rules" in choice["message"]["content"]


def test_only_what_is_new_is_checked(http, parrot):
    """The same words in an earlier turn do not block the conversation for ever."""
    old = [
        {"role": "user", "content": "dragonfire"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "hello"},
    ]
    assert ask(http, parrot, "", Text("Hello."), messages=old)["finish_reason"] == "stop"


def test_a_blocked_sentence_ends_the_answer_before_it(http, parrot):
    before = parrot.closed
    choice = ask(http, parrot, "hello", Text("It is warm. Then dragon"), Text("fire came. "), Text("All fled."))
    assert choice["message"]["content"] == "It is warm."
    assert choice["finish_reason"] == "content_filter"
    assert parrot.closed == before + 2  # the generation was ended, whole and streamed


def test_what_nobody_should_read_is_taken_out_on_both_ways(http, parrot):
    """As the default policy says: characters that no one sees before the model, an address behind it."""
    choice = ask(http, parrot, "hel\u200blo", Text("Write to bob@exam"), Text("ple.org now."))
    assert parrot.asked.messages[-1]["content"] == "hello"
    assert choice["message"]["content"] == "Write to <EMAIL> now."


def test_a_blocked_call_is_not_handed_out(http, parrot):
    tool = {"type": "function", "function": {"name": "say"}}
    good, bad = (ToolCall("1", "say", {"text": text}) for text in ("hello", "dragonfire"))
    choice = ask(http, parrot, "hello", good, tools=[tool])
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"text": "hello"}
    choice = ask(http, parrot, "hello", bad, tools=[tool])
    assert choice["finish_reason"] == "content_filter"
    assert "tool_calls" not in choice["message"]


def test_log_probabilities_do_not_tell_what_is_blocked(http, parrot):
    tokens = [("Warm. ", -0.1), ("Dragon", -0.2), ("fire! ", -0.3), ("Bye.", -0.4)]
    pieces = []
    for text, logprob in tokens:
        pieces += [Chosen(1, text, text.encode(), logprob), Text(text)]
    choice = ask(http, parrot, "hello", *pieces, logprobs=True)
    assert choice["finish_reason"] == "content_filter"
    assert "ragon" not in json.dumps(choice)
    choice = ask(http, parrot, "hello", *pieces[:2], *pieces[-2:], logprobs=True)
    assert [token["token"] for token in choice["logprobs"]["content"]] == ["Warm. ", "Bye."]
