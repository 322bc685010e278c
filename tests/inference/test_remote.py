"""A model behind OpenAI's API as a ChatModel: what is asked, what comes back, what happens when it does not."""

import json

import httpx2
import pytest

from penjing.alignment.asking import Asker
from penjing.errors import ConfigError, GenerationError
from penjing.inference.chat_model import End, Text, Tool, ToolCall, ToolResult, Usage
from penjing.inference.openai_wire import LONGEST_LINE, RemoteError, RemoteTooLongError, messages_of
from penjing.inference.remote import Endpoint, OpenAIChatModel
from penjing.inference.sampling import Sampling
from tests.inference.fake_openai import FakeServer, answering, chunk, events, usage

ENDPOINT = Endpoint("http://models.test/v1", "m", key="sk-secret")
HI = [{"role": "user", "content": "Hi"}]
ADD = Tool("add", "Adds.", {"type": "object"}, run=lambda a, b: a + b)


def model(server: FakeServer, pauses: list | None = None, endpoint: Endpoint = ENDPOINT) -> OpenAIChatModel:
    return OpenAIChatModel(endpoint, client=server.client(), sleep=(pauses if pauses is not None else []).append)


def call(index: int, *, id: str | None = None, name: str | None = None, arguments: str = "") -> dict:
    return {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_text_comes_as_it_is_sent_however_the_network_cuts_it(piece):
    server = FakeServer(answering("Hel", "lo, ", "盆景 🌲"), piece=piece)
    *texts, end = model(server).stream(HI)
    assert texts == [Text("Hel"), Text("lo, "), Text("盆景 🌲")]
    assert end == End("stop", Usage(9, 3, 4), ({"role": "assistant", "content": "Hello, 盆景 🌲"},))
    assert server.headers[0]["authorization"] == "Bearer sk-secret"


def test_settings_go_by_the_names_that_servers_know_and_defaults_are_not_sent():
    server = FakeServer(answering("a"), answering("a"))
    chat = model(server)
    list(chat.stream(HI))
    plain = {
        "model": "m",
        "messages": HI,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.0,
    }
    assert server.asked[0] == plain | {"path": "/v1/chat/completions"}
    settings = Sampling(
        temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.2,
        frequency_penalty=0.3, max_new_tokens=7, stop=("x",), seed=5, logprobs=2,
    )  # fmt: skip
    list(chat.stream(HI, settings, [ADD]))
    sent = server.asked[1]
    assert sent["tools"] == [ADD.to_dict()]
    expected = {
        "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.2,
        "frequency_penalty": 0.3, "max_tokens": 7, "stop": ["x"], "seed": 5, "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    assert expected.items() <= sent.items()


def test_a_setting_that_it_has_no_word_for_is_refused_not_left_out():
    with pytest.raises(GenerationError, match="log-probabilities at a temperature"):
        model(FakeServer()).stream(HI, Sampling(tempered_logprobs=True, logprobs=0))


def test_tools_are_run_and_the_answer_goes_on():
    """Two calls at once, their arguments in pieces; the second request holds the calls and what they gave."""
    first = events(
        chunk("Let me see."),
        chunk(calls=[call(0, id="a1", name="add"), call(1, id="a2", name="nothing")]),
        chunk(calls=[call(0, arguments='{"a": 1')]),
        chunk(calls=[call(0, arguments=', "b": 2}'), call(1, arguments="{}")]),
        chunk(finish="tool_calls"),
        usage(10, 5),
        "[DONE]",
    )
    server = FakeServer(first, answering("It is 3."))
    pieces = list(model(server).stream(HI, tools=[ADD]))
    assert pieces[:4] == [
        Text("Let me see."),
        ToolCall("a1", "add", {"a": 1, "b": 2}),
        ToolCall("a2", "nothing", {}),
        ToolResult("a1", "add", "3"),
    ]
    assert pieces[4].content.startswith("error: there is no tool 'nothing'")
    assert pieces[5:-1] == [Text("It is 3.")]
    end = pieces[-1]
    assert (end.reason, end.usage) == ("stop", Usage(19, 6, 4))
    asked = server.asked[1]["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "tool", "tool"]
    assert [entry["id"] for entry in asked[1]["tool_calls"]] == [message["tool_call_id"] for message in asked[2:]]
    assert json.loads(asked[1]["tool_calls"][0]["function"]["arguments"]) == {"a": 1, "b": 2}
    assert [message["role"] for message in end.messages] == ["assistant", "tool", "tool", "assistant"]


def test_calls_that_only_the_application_can_run_end_the_answer():
    told = events(chunk(calls=[call(0, id="a", name="look", arguments="{}")]), chunk(finish="tool_calls"), "[DONE]")
    *_, asked, end = model(FakeServer(told)).stream(HI, tools=[Tool("look")])
    assert asked == ToolCall("a", "look", {})
    assert end.reason == "tool_calls"


def test_a_conversation_with_a_local_model_can_be_taken_up():
    """Its calls are text between tags, and its results name no call."""
    text = 'See. <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    talk = [
        *HI,
        {"role": "assistant", "content": text},
        {"role": "tool", "content": "3"},
        {"role": "user", "content": "?"},
    ]
    user, assistant, tool, _ = messages_of(talk)
    assert assistant["content"] == "See. "
    assert assistant["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert tool["tool_call_id"] == assistant["tool_calls"][0]["id"]
    assert user == HI[0]


@pytest.mark.parametrize(
    "refusal", [(429, b"{}", {"Retry-After": "3"}), (503, b"", {}), httpx2.ConnectError("refused")]
)
def test_a_request_that_is_refused_for_now_is_sent_again(refusal):
    pauses: list[float] = []
    server = FakeServer(refusal, refusal, answering("a"))
    *_, end = model(server, pauses).stream(HI)
    assert end.reason == "stop"
    assert len(pauses) == 2
    if isinstance(refusal, tuple) and refusal[2]:
        assert pauses == [3, 3]
    else:
        assert 0 <= pauses[0] <= 1
        assert 0 <= pauses[1] <= 2


def test_a_server_that_is_away_is_asked_some_times_and_then_named():
    server = FakeServer(*[httpx2.ConnectError("Connection refused")] * 4)
    with pytest.raises(RemoteError, match=r"http://models\.test/v1 cannot be reached.*is the server running"):
        model(server).stream(HI)
    assert server.answers == []


def test_what_is_wrong_with_the_request_is_told_at_once_in_the_servers_words():
    for status, body, error, words in (
        (401, {"error": {"message": "no such key"}}, RemoteError, "answered 401: no such key; is the API key right"),
        (404, {"detail": "Not Found"}, RemoteError, "Not Found; is the address right"),
        (400, {"message": "top_k is not known"}, RemoteError, "top_k is not known"),
        (400, {"error": {"message": "maximum context length is 512"}}, RemoteTooLongError, "context length is 512"),
        (418, b"<html>", RemoteError, "<html>"),
    ):
        server = FakeServer((status, body, {}))
        with pytest.raises(error, match=words):
            model(server).stream(HI)
        assert len(server.asked) == 1


def test_what_has_been_shown_is_not_asked_for_again():
    """The stream breaks after its first text: an error, and no second request."""
    for body, breaks in ((events(chunk("Hel")), True), (events(chunk("Hel")), False)):
        server = FakeServer(body, breaks=breaks)
        pieces = model(server).stream(HI)
        assert next(pieces) == Text("Hel")
        with pytest.raises(RemoteError):
            list(pieces)
        assert len(server.asked) == 1
        assert server.bodies[0].closed


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ("{not json", "no piece of an answer"),
        ('{"choices": 7}', "no piece of an answer"),
        ('{"choices": [{"delta": {"tool_calls": [{"index": "x"}]}}]}', "no piece of an answer"),
        ("[" * 100_000, "no piece of an answer"),
        ('{"error": {"message": "out of memory"}}', "broke off: out of memory"),
    ],
)
def test_a_stream_that_is_none_is_an_error_with_what_came(sent, words):
    with pytest.raises(RemoteError, match=words):
        list(model(FakeServer(events(sent), piece=1 << 20)).stream(HI))


def test_a_line_without_end_is_not_kept():
    with pytest.raises(RemoteError, match="line of more than"):
        list(model(FakeServer(b"data: " + b"x" * (LONGEST_LINE + 100), piece=1 << 20)).stream(HI))


def test_closing_the_iterator_closes_the_connection():
    server = FakeServer(answering(*"abcdefgh"))
    pieces = model(server).stream(HI)
    next(pieces)
    pieces.close()
    assert server.bodies[0].closed
    assert server.bodies[0].sent < len(server.bodies[0].body) / 7
    unread = model(server := FakeServer(answering("a"))).stream(HI)
    unread.close()
    assert server.bodies[0].closed


def test_without_usage_the_pieces_stand_for_tokens():
    *_, end = model(FakeServer(events(chunk("a"), chunk("b"), chunk(finish="length"), "[DONE]"))).stream(HI)
    assert (end.reason, end.usage) == ("length", Usage(0, 2, 0))


def test_calls_whose_arguments_are_no_json_are_told_to_the_model():
    broken = events(
        chunk(calls=[call(0, id="a", name="add", arguments='{"a": ')]), chunk(finish="tool_calls"), "[DONE]"
    )
    pieces = list(model(FakeServer(broken, answering("Sorry."))).stream(HI, tools=[ADD]))
    assert pieces[0].error
    assert pieces[1].content.startswith("error:")


def test_the_first_model_of_the_server_is_taken_when_none_is_named():
    server = FakeServer((200, {"data": [{"id": "one"}, {"id": "two"}]}, {}), answering("a"))
    chat = model(server, endpoint=Endpoint("http://models.test/v1"))
    assert chat.name == "one"
    list(chat.stream(HI))
    assert server.asked[1]["model"] == "one"
    with pytest.raises(RemoteError, match="lists no models"):
        model(FakeServer((200, {"data": []}, {})), endpoint=Endpoint("http://models.test/v1"))


@pytest.mark.parametrize(
    ("text", "url", "name"),
    [
        ("openai:http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", ""),
        ("openai:https://api.example/v1/#org/model", "https://api.example/v1", "org/model"),
        ("openai:http://[::1]:8000/proxy/v1#m", "http://[::1]:8000/proxy/v1", "m"),
    ],
)
def test_addresses(text, url, name):
    found = Endpoint.of(text, key="")
    assert (found.url, found.model) == (url, name)


@pytest.mark.parametrize("text", ["openai:", "openai:ftp://x", "openai:localhost:8000", "openai:http://", "http:/x"])
def test_what_is_no_address_is_an_error_with_the_form(text):
    with pytest.raises(ConfigError, match="openai:http://HOST"):
        Endpoint.of(text)


def test_a_password_in_the_address_is_refused():
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        Endpoint.of("openai:http://user:secret@host/v1")


def test_data_is_made_by_asking_it():
    """An `Asker` takes it as any ChatModel: too long a question is a fault of that question, a refused key of all."""
    too_long = (400, {"error": {"message": "context length exceeded"}}, {})
    ask = Asker(model(FakeServer(answering(" Yes. "), too_long, (401, {}, {}))), Sampling(temperature=0))
    assert ask("Is it?").text == "Yes."
    assert ask("Is it?").fault == "longer than the model's context"
    with pytest.raises(RemoteError, match="401"):
        ask("Is it?")
