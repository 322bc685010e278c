"""An engine in a process of its own: what the thread gives, and what only a process can suffer."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import penjing
from penjing.errors import CheckpointError, GenerationError
from penjing.inference.engine.engine import Engine
from penjing.inference.sampling import Sampling
from penjing.serving.backend import BackendError, ShapeError
from penjing.serving.constraints import Shape
from penjing.serving.local import mean_of
from penjing.serving.process import in_process
from penjing.serving.service import in_thread
from penjing.studio import look
from tests.inference import tiny

GREEDY = Sampling(temperature=0, max_new_tokens=20)
LONG = Sampling(temperature=0, max_new_tokens=4000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("process") / "tiny"
    tokenizer = tiny.tokenizer()
    penjing.save(place, tiny.model(tokenizer.vocab_size, context=4096), tokenizer)
    return place


@pytest.fixture(scope="module")
def service(folder):
    made = in_process(str(folder), device="cpu", precision="fp32", seats=8)
    yield made
    made.close()


@pytest.fixture(scope="module")
def threaded(folder):
    model, tokenizer = penjing.load(folder)
    made = in_thread(lambda: Engine(model, tokens=8192, seats=8), tokenizer=tokenizer)
    yield made
    made.close()


async def tokens(service, prompt, sampling=GREEDY, **options):
    return [token async for token in service.stream(prompt, sampling, **options)]


def both(service, threaded, ask):
    """What each gives."""
    return asyncio.run(ask(service)), asyncio.run(ask(threaded))


def test_many_at_once_get_from_the_process_what_they_get_from_the_thread(service, threaded):
    """24 prompts at once on 8 seats, greedy and drawn with a seed; every token exact."""

    async def ask(from_):
        return await asyncio.gather(
            *(tokens(from_, [7 + n % 5, n, 3], GREEDY) for n in range(12)),
            *(tokens(from_, [9, 4], Sampling(seed=5, max_new_tokens=12), sample=n) for n in range(4)),
            *(tokens(from_, [n, 3], Sampling(seed=n, max_new_tokens=9, logit_bias={65: 3.5})) for n in range(8)),
        )

    one, other = both(service, threaded, ask)
    assert [[(t.id, t.reason) for t in text] for text in one] == [[(t.id, t.reason) for t in text] for text in other]


def test_scores_of_answers_and_prompts_cross_the_pipe(service, threaded):
    """Ids are exact; log-probabilities to 1e-4, for companions in a pass change the order of sums."""
    sampling = Sampling(temperature=0, max_new_tokens=6, logprobs=2)

    async def ask(from_):
        job = from_.submit(range(1, 30), sampling, prompt_logprobs=True)
        found = [token async for some in from_.tokens_of(job) for token in some]
        return found, job.prompt_logprobs

    (found, prompt), (expected, expected_prompt) = both(service, threaded, ask)
    assert [token.id for token in found] == [token.id for token in expected]
    assert [token.logprob for token in found] == pytest.approx([token.logprob for token in expected], abs=1e-4)
    assert [[id for id, _ in token.top] for token in found] == [[id for id, _ in token.top] for token in expected]
    assert len(prompt) == 28
    assert [score for score, _ in prompt] == pytest.approx([score for score, _ in expected_prompt], abs=1e-4)
    assert [dict(top).keys() for _, top in prompt] == [dict(top).keys() for _, top in expected_prompt]


def test_shapes_hold_and_those_that_cannot_be_are_the_askers_error(service):
    tokenizer = tiny.tokenizer()

    async def two():
        return await asyncio.gather(
            tokens(service, [5], shape=Shape(schema={"enum": [True, None]})),
            tokens(service, [5], shape=Shape(schema={"type": "nothing"})),
            return_exceptions=True,
        )

    right, wrong = asyncio.run(two())
    assert tokenizer.decode([token.id for token in right]) in ("true", "null")
    assert isinstance(wrong, ShapeError)


def test_other_work_gives_what_it_gives_in_the_thread_and_its_errors_keep_their_kind(service, threaded):
    """Vectors and looks inside to 1e-5: one thread of another process may sum in another order."""

    async def ask(from_):
        vector = await from_.run(mean_of, ids=[5, 7, 9])
        messages = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "in"}]
        seen = await from_.run(look.tokens_in, messages=messages, top=3)
        with pytest.raises(look.LookError, match="layer 7 is wanted of 2"):
            await from_.run(look.attention_in, messages=messages, place=1, layer=7)
        return vector, [token["probability"] for token in seen["tokens"]]

    (vector, seen), (expected, expected_seen) = both(service, threaded, ask)
    assert vector == pytest.approx(expected, abs=1e-5)
    assert seen == pytest.approx(expected_seen, abs=1e-5)


def test_work_that_cannot_be_named_or_sent_back_is_an_error_and_no_end(service):
    with pytest.raises(ValueError, match="Penjing"):
        asyncio.run(service.run(lambda model, tokenizer: None))
    with pytest.raises(RuntimeError, match="TypeError"):
        asyncio.run(service.run(penjing.save))  # called with no place to save at
    with pytest.raises(GenerationError, match="999"):
        asyncio.run(tokens(service, [999]))
    assert len(asyncio.run(tokens(service, [5]))) == 20


def wait_for(condition, seconds: float = 20) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, "it does not come"
        time.sleep(0.001)


def test_leaving_stops_the_work_and_frees_its_memory(service):
    async def leave():
        stream = service.stream([1, 2, 3], LONG)
        await anext(stream)
        assert service.figures()["cache_used"] > 0
        await stream.aclose()
        assert not service.busy

    asyncio.run(leave())
    wait_for(lambda: not service.figures()["running"], 5)
    assert service.figures()["cache_used"] == 0


def test_a_process_that_is_killed_fails_its_answers_and_another_takes_its_place(folder):
    """SIGKILL, as the system sends for want of memory, in the middle of two answers; a third asks meanwhile."""
    service = in_process(str(folder), device="cpu", precision="fp32")

    async def killed():
        begun = [service.stream([1, n], LONG) for n in range(2)]
        for stream in begun:
            await anext(stream)
        first = service.host.pid
        os.kill(first, signal.SIGKILL)
        for stream in begun:
            with pytest.raises(BackendError, match=r"signal 9.*ask again"):
                async for _ in stream:
                    pass
        again = await tokens(service, [5])
        assert service.host.pid != first
        return again

    again = asyncio.run(killed())
    assert service.fault is None
    assert service.figures()["passes"] > 0
    assert again == asyncio.run(tokens(service, [5]))
    service.close()


@pytest.mark.slow
def test_when_no_other_can_take_its_place_it_says_so(tmp_path, folder):
    place = tmp_path / "going"
    place.symlink_to(folder)
    service = in_process(str(place), device="cpu", precision="fp32")
    place.unlink()
    os.kill(service.host.pid, signal.SIGKILL)
    wait_for(lambda: service.fault is not None)
    assert "CheckpointError" in service.fault
    with pytest.raises(BackendError, match="no new one"):
        asyncio.run(tokens(service, [5]))
    service.close()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_its_own_error_here(tmp_path):
    with pytest.raises(CheckpointError, match="nothing-here"):
        in_process(str(tmp_path / "nothing-here"))


@pytest.mark.slow
def test_closing_ends_the_process_and_tells_those_who_wait(folder):
    service = in_process(str(folder), device="cpu", precision="fp32")
    child = psutil.Process(service.host.pid)

    async def closed():
        stream = service.stream([1], LONG)
        await anext(stream)
        await asyncio.to_thread(service.close)
        with pytest.raises(BackendError, match="closed"):
            async for _ in stream:
                pass
        with pytest.raises(BackendError, match="closed"):
            await tokens(service, [1])

    asyncio.run(closed())
    assert not child.is_running()


SERVER = """
import sys, time
from penjing.serving.process import in_process
service = in_process(sys.argv[1], device="cpu", precision="fp32")
print(service.host.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_no_process_behind_and_signals_meant_for_it_do_no_harm(folder):
    """Ctrl-C and SIGTERM reach the whole group: the engine goes on until its server ends it, or has gone."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE)
    child = psutil.Process(int(server.stdout.readline()))
    for number in (signal.SIGINT, signal.SIGTERM):
        child.send_signal(number)
    with pytest.raises(psutil.TimeoutExpired):
        child.wait(0.3)
    server.kill()
    server.wait()
    server.stdout.close()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10)


def test_what_crosses_the_pipe_is_what_was_sent():
    """Each kind of order and news, through JSON; exact."""
    from penjing.inference.chat_model import Tool
    from penjing.inference.engine.request import Token
    from penjing.serving import orders, wire

    shape = Shape((Tool("f", "does", {"type": "object"}),), frozenset({"f"}), True, False, None)
    sampling = Sampling(temperature=0.5, stop=("a", "b"), logit_bias={3: -1.5}, seed=2**63 - 1, logprobs=2)
    asked = orders.Question((1, 2), sampling, frozenset({9}), shape, 3, True)
    for order in (orders.Ask(1, asked), orders.Ask(2, orders.Question((5,), Sampling())), orders.Cancel(3)):
        assert wire.order_of(json.loads(json.dumps(wire.order_to(order)))) == order
    do = wire.order_of(json.loads(json.dumps(wire.order_to(orders.Do(4, mean_of, {"ids": [1]})))))
    assert do == orders.Do(4, mean_of, {"ids": [1]})
    for item in (
        Token(0, 5),
        Token(0, 6, reason="stop", is_stop=True),
        Token(0, 7, -0.1234567890123, ((7, -0.1234567890123), (8, float("-inf")))),
        orders.Begun(16),
        orders.Begun(0, [(-1.5, ((3, -0.5),))]),
        orders.Done({"a": ["b", None, 1.5]}),
    ):
        assert wire.item_of(json.loads(json.dumps(wire.item_to(8, item)))) == (8, item)
    _, error = wire.item_of(wire.item_to(8, ShapeError("no such type")))
    assert (type(error), str(error)) == (ShapeError, "no such type")


@pytest.mark.parametrize(
    "name", ["os:system", "penjing.serving.wire:struct.pack", "penjingx.y:z", "penjing.serving.wire"]
)
def test_only_what_is_penjings_can_be_named(name):
    from penjing.serving import wire

    with pytest.raises(ValueError, match="Penjing"):
        wire.named(name)
