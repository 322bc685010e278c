"""A backend behind another server: as of `Backend`, without waiting, its errors those of a backend."""

import asyncio

import httpx2
import pytest

from penjing.errors import GenerationError
from penjing.inference.chat_model import End, Text, Tool, ToolCall, ToolResult, Usage
from penjing.inference.remote import Endpoint
from penjing.inference.sampling import Sampling
from penjing.serving.backend import Alternative, Ask, BackendError, Chosen, Embedder, JsonShape, Named, TooLongError
from penjing.serving.remote import RemoteBackend, connect
from tests.inference.fake_openai import FakeServer, answering, chunk, events

ENDPOINT = Endpoint("http://models.test/v1", "m", attempts=2)
HI = [{"role": "user", "content": "Hi"}]


def backend(server: FakeServer) -> RemoteBackend:
    return RemoteBackend(ENDPOINT, client=server.async_client())


def pieces_of(server: FakeServer, ask: Ask) -> list:
    async def collect():
        return [piece async for piece in backend(server).answer(ask)]

    return asyncio.run(collect())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("penjing.serving.remote.pause_before", lambda *_: 0.0)


def test_an_answer_is_that_of_the_waiting_model():
    """Same bytes, same pieces as `OpenAIChatModel`, whose own tests say what these are."""
    from penjing.inference.remote import OpenAIChatModel

    body = answering("Hel", "lo 盆景")
    waiting = list(OpenAIChatModel(ENDPOINT, client=FakeServer(body).client()).stream(HI))
    assert pieces_of(FakeServer(body, piece=3), Ask(HI)) == waiting
    assert waiting[-1] == End("stop", Usage(9, 2, 4), ({"role": "assistant", "content": "Hello 盆景"},))


def test_tools_with_functions_are_run_here():
    told = [{"index": 0, "id": "a", "type": "function", "function": {"name": "double", "arguments": '{"x": 4}'}}]
    server = FakeServer(events(chunk(calls=told), chunk(finish="tool_calls"), "[DONE]"), answering("8"))
    pieces = pieces_of(server, Ask(HI, tools=[Tool("double", run=lambda x: 2 * x)]))
    assert pieces[:3] == [ToolCall("a", "double", {"x": 4}), ToolResult("a", "double", "8"), Text("8")]
    assert server.asked[1]["messages"][-1] == {"role": "tool", "content": "8", "tool_call_id": "a"}


def test_every_field_of_a_question_is_sent():
    """None is ignored: what a question asks for is in the request, by OpenAI's name for it."""
    server = FakeServer(answering("a"), answering("a"))
    pieces_of(
        server,
        Ask(
            HI,
            Sampling(seed=5, logprobs=1),
            tools=[Tool("double")],
            constraint=JsonShape({"type": "object"}, "thing"),
            tool_choice=Named("double"),
            parallel=False,
            look=True,
            sample=2,
        ),
    )
    sent = server.asked[0]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "double"}}
    assert sent["parallel_tool_calls"] is False
    assert sent["response_format"]["json_schema"] == {"name": "thing", "schema": {"type": "object"}, "strict": True}
    assert (sent["logprobs"], sent["top_logprobs"], sent["seed"]) == (True, 5, 7)
    pieces_of(server, Ask(HI, constraint=JsonShape(), tools=[Tool("double")], tool_choice="required"))
    assert server.asked[1]["response_format"] == {"type": "json_object"}
    assert server.asked[1]["tool_choice"] == "required"


def test_chosen_tokens_come_before_their_text():
    entry = {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [{"token": "b", "logprob": -1.5, "bytes": None}],
    }
    server = FakeServer(events(chunk("a", scores={"content": [entry]}), chunk(finish="stop"), "[DONE]"))
    chosen, text, _ = pieces_of(server, Ask(HI, look=True))
    assert chosen == Chosen(None, "a", b"a", -0.5, (Alternative(None, "b", b"b", -1.5),))
    assert text == Text("a")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx2.ConnectError("refused"), BackendError),
        ((503, b"", {}), BackendError),
        ((401, b"", {}), BackendError),
        ((400, {"error": {"message": "top_k is unknown"}}, {}), GenerationError),
        ((400, {"error": {"message": "maximum context length"}}, {}), TooLongError),
        (events("{"), BackendError),
        (events(chunk("a")), BackendError),
    ],
)
def test_errors_are_those_of_a_backend(answer, error):
    """Of the question's: GenerationError; of the server's: BackendError. A server that is away is asked twice."""
    server = FakeServer(answer, answer)
    with pytest.raises(error):
        pieces_of(server, Ask(HI))
    retried = isinstance(answer, Exception) or answer[0] == 503
    assert len(server.asked) == 1 + retried


def test_nothing_is_sent_before_the_first_step_and_closing_ends_the_connection():
    server = FakeServer(answering(*"abcdefgh"))

    async def leave_early():
        pieces = backend(server).answer(Ask(HI))
        assert not server.asked
        assert await anext(pieces) == Text("a")
        await pieces.aclose()

    asyncio.run(leave_early())
    assert server.bodies[0].closed
    assert server.bodies[0].sent < len(server.bodies[0].body) / 7


def test_a_cancelled_task_ends_the_connection():
    server = FakeServer(answering(*"abcdefgh"))

    async def cancelled():
        async def consume():
            async for _ in backend(server).answer(Ask(HI)):
                begun.set()
                await asyncio.Event().wait()

        begun = asyncio.Event()
        task = asyncio.create_task(consume())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert server.bodies[0].closed


def test_a_server_tells_its_models_and_how_long_their_contexts_are():
    listed = {"data": [{"id": "a", "max_model_len": 4096}, {"id": "b", "meta": {"n_ctx": 512}}, {"id": "c"}]}
    server = FakeServer((200, listed, {}), (200, listed, {}), (200, listed, {}))

    def models(name: str) -> list[RemoteBackend]:
        return asyncio.run(connect(Endpoint("http://models.test/v1", name), server.async_client()))

    assert [(found.name, found.context) for found in models("")] == [("a", 4096), ("b", 512), ("c", 8192)]
    assert [found.name for found in models("b")] == ["b"]
    with pytest.raises(BackendError, match="no model 'd'; it has: a, b, c"):
        models("d")


def test_counts_are_not_less_than_what_common_tokenizers_need():
    """An estimate from above: our own tokenizer's tokens of English, at most 4 bytes each, and of Chinese, 3 each."""
    asked = backend(FakeServer())
    assert asked.count([{"role": "user", "content": "word " * 100}]) >= 101
    assert asked.count([{"role": "user", "content": "字" * 100}]) >= 100
    assert asked.count(HI, [Tool("double", "Doubles a number.")]) > asked.count(HI) + 10


def test_vectors_come_in_the_order_of_the_texts():
    rows = [{"index": 1, "embedding": [0.0, 1.0]}, {"index": 0, "embedding": [1.0, 0.0]}]
    server = FakeServer((200, {"data": rows, "usage": {"prompt_tokens": 4}}, {}), (200, {}, {}))
    asked = backend(server)
    assert isinstance(asked, Embedder)
    assert asyncio.run(asked.embed(["a", [1, 2]])) == ([[1.0, 0.0], [0.0, 1.0]], 4)
    assert server.asked[0]["input"] == ["a", [1, 2]]
    with pytest.raises(BackendError, match="no vectors"):
        asyncio.run(asked.embed(["a"]))


def test_our_own_server_is_such_a_server_and_so_is_one_in_front_of_it(tmp_path):
    """Texts, reasons and counts at temperature 0 are those of the model in this process: asked over HTTP, and through a
    second server whose backend is the first; exact."""
    import penjing
    from penjing.inference.chat_model import End as TheEnd
    from penjing.inference.local import LocalChatModel
    from penjing.inference.remote import OpenAIChatModel
    from penjing.serving import server
    from penjing.serving.app import create_app
    from penjing.serving.settings import ServeSettings
    from tests.serving.api.conftest import settings_for, tiny_folder

    folder = tiny_folder(tmp_path / "tiny")
    local = LocalChatModel(*penjing.load(folder))
    sampling = Sampling(temperature=0, max_new_tokens=20, repetition_penalty=1.3)
    conversations = [HI, [{"role": "system", "content": "盆景"}, *HI, {"role": "assistant", "content": "the"}, *HI]]

    def said(model, conversation) -> tuple:
        *pieces, end = model.stream(conversation, sampling)
        assert isinstance(end, TheEnd)
        text = "".join(piece.text for piece in pieces)
        return text, end.reason, end.usage.prompt_tokens, end.usage.completion_tokens

    expected = [said(local, conversation) for conversation in conversations]
    with server.running(create_app(settings_for(folder))) as first:
        front = ServeSettings(remotes=(Endpoint.of(f"openai:{first}#tiny", key=""),), page=False, safety=False)
        with server.running(create_app(front)) as second:
            for url in (first, second):
                remote = OpenAIChatModel(Endpoint.of(f"openai:{url}", key=""))
                assert remote.name == "tiny"
                assert [said(remote, conversation) for conversation in conversations] == expected
                remote.close()
