"""The engine in a thread of its own: many askers, hang-ups, failures."""

import asyncio
import threading

import pytest

from penjing.errors import GenerationError
from penjing.inference.engine.engine import Engine
from penjing.inference.sampling import Sampling
from penjing.serving.backend import BackendError, ShapeError
from penjing.serving.constraints import Shape
from penjing.serving.service import in_thread
from tests.inference import tiny

MODEL = tiny.model(context=256)
GREEDY = Sampling(temperature=0, max_new_tokens=20)
LONG = Sampling(temperature=0, max_new_tokens=200)


@pytest.fixture
def service():
    made = in_thread(lambda: Engine(MODEL, tokens=2048, seats=8))
    yield made
    made.close()


def nothing(model, tokenizer) -> None:
    """Work that is done at once."""


async def ids(service, prompt, sampling=GREEDY, **options) -> list[int]:
    return [token.id async for token in service.stream(prompt, sampling, **options)]


def alone(prompt, sampling, *, samples: int = 1) -> list[list[int]]:
    engine = Engine(MODEL, tokens=2048)
    requests = engine.add(prompt, sampling, samples=samples)
    while engine.busy:
        engine.step()
    return [list(request.generated) for request in requests]


def test_many_at_once_answer_as_each_alone(service):
    """24 prompts at once on 8 seats; exact."""
    prompts = [[7 + n % 5, n, 3] for n in range(24)]

    async def all_of_them():
        return await asyncio.gather(*(ids(service, prompt) for prompt in prompts))

    assert asyncio.run(all_of_them()) == [alone(prompt, GREEDY)[0] for prompt in prompts]


def test_samples_of_one_prompt_read_it_once_and_differ_as_in_the_engine(service):
    """4 samples with a seed: those of one call of the engine; exact. The prompt's 33 tokens are in one pass."""
    prompt, sampling = list(range(1, 34)), Sampling(seed=5, max_new_tokens=12)

    async def four():
        return await asyncio.gather(*(ids(service, prompt, sampling, sample=n) for n in range(4)))

    assert asyncio.run(four()) == alone(prompt, sampling, samples=4)
    assert service.host._engine.metrics.prompt_tokens == 33


def test_the_third_sample_alone_is_the_third_of_many(service):
    sampling = Sampling(seed=9, max_new_tokens=10)
    assert asyncio.run(ids(service, [4, 5], sampling, sample=2)) == alone([4, 5], sampling, samples=3)[2]


def test_leaving_frees_the_memory_at_once(service):
    """After the generator is closed no page is in use, within 100 ms of it."""

    async def leave():
        tokens = service.stream([1, 2, 3], LONG)
        await anext(tokens)
        assert sum(service.host._engine.cache.used.values()) > 0
        await tokens.aclose()
        async with asyncio.timeout(0.1):
            await service.run(nothing)  # a pass later
        assert sum(service.host._engine.cache.used.values()) == 0
        assert not service.host._engine.busy
        assert not service.busy

    asyncio.run(leave())


def test_cancelling_the_task_does_too(service):
    async def cancel():
        begun = asyncio.Event()

        async def read():
            async for _ in service.stream([1, 2, 3], LONG):
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await service.run(nothing)
        assert not service.host._engine.busy

    asyncio.run(cancel())


def test_what_the_engine_refuses_is_told_to_its_asker_alone(service):
    async def two():
        return await asyncio.gather(ids(service, [999]), ids(service, [5]), return_exceptions=True)

    wrong, right = asyncio.run(two())
    assert isinstance(wrong, GenerationError)
    assert right == alone([5], GREEDY)[0]


def test_a_failing_engine_fails_its_requests_and_a_new_one_takes_over():
    """The first engine's third pass raises; both askers are told, and the next question is answered."""
    made = []

    def build():
        engine = Engine(MODEL, tokens=2048)
        made.append(engine)
        if len(made) == 1:
            step, calls = engine.step, []

            def failing():
                calls.append(0)
                if len(calls) == 3:
                    raise RuntimeError("out of memory")
                return step()

            engine.step = failing
        return engine

    service = in_thread(build)

    async def both():
        return await asyncio.gather(ids(service, [1]), ids(service, [2]), return_exceptions=True)

    for error in asyncio.run(both()):
        assert isinstance(error, BackendError)
        assert "RuntimeError" in str(error)
        assert "out of memory" not in str(error)  # an exception's text may hold what a user wrote
    assert asyncio.run(ids(service, [1])) == alone([1], GREEDY)[0]
    assert len(made) == 2
    assert service.fault is None
    service.close()


def test_a_service_whose_engine_cannot_be_made_again_says_so():
    made = []

    def build():
        if made:
            raise MemoryError
        engine = Engine(MODEL, tokens=2048)
        made.append(engine)
        engine.step = lambda: 1 / 0
        return engine

    service = in_thread(build)
    with pytest.raises(BackendError):
        asyncio.run(ids(service, [1]))
    with pytest.raises(BackendError, match="no new one"):
        asyncio.run(ids(service, [1]))
    assert "MemoryError" in service.fault
    service.close()


def test_work_is_done_in_the_engines_thread_and_its_error_comes_back(service):
    thread = asyncio.run(service.run(lambda model, _: (model, threading.current_thread())))
    assert thread == (MODEL, service.host._thread)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(service.run(lambda *_: 1 / 0))
    assert asyncio.run(ids(service, [5])) == alone([5], GREEDY)[0]


def test_closing_tells_those_who_wait_and_those_who_come_later():
    service = in_thread(lambda: Engine(MODEL, tokens=2048))

    async def closed():
        tokens = service.stream([1], LONG)
        await anext(tokens)
        await asyncio.to_thread(service.close)
        with pytest.raises(BackendError, match="closed"):
            async for _ in tokens:
                pass
        with pytest.raises(BackendError, match="closed"):
            await ids(service, [1])

    asyncio.run(closed())


def test_an_engine_that_cannot_be_made_is_an_error_where_the_service_is():
    def build():
        raise GenerationError("no memory")

    with pytest.raises(GenerationError, match="no memory"):
        in_thread(build)


def test_constraints_hold_for_their_own_request_only():
    tokenizer = tiny.tokenizer()
    model = tiny.model(tokenizer.vocab_size, context=256)
    service = in_thread(lambda: Engine(model, tokens=2048), tokenizer=tokenizer)
    shape = Shape(schema={"enum": [True, None]})

    async def three():
        bad = ids(service, [5], shape=Shape(schema={"type": "nothing"}))
        return await asyncio.gather(ids(service, [5], shape=shape), ids(service, [5]), bad, return_exceptions=True)

    one, other, wrong = asyncio.run(three())
    assert tokenizer.decode(one) in ("true", "null")
    assert isinstance(wrong, ShapeError)
    engine = Engine(model, tokens=2048)
    (request,) = engine.add([5], GREEDY)
    list(engine.stream(request))
    assert other == list(request.generated)
    service.close()
