"""Models by name: read when asked for, put away when another needs room."""

import asyncio

import pytest
import torch

import penjing
from penjing.errors import CheckpointError, ConfigError, PenjingError
from penjing.inference.chat_model import End, Text
from penjing.inference.sampling import Sampling
from penjing.models.encoder_folder import save_encoder
from penjing.serving.backend import Ask, BackendError, TooLongError, UnknownModelError
from penjing.serving.registry import Registry, Source
from tests.inference import tiny
from tests.models import test_encoder

ASK = Ask([{"role": "user", "content": "the"}], Sampling(temperature=0, max_new_tokens=8))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny.tokenizer()
    for seed, name in enumerate("abc"):
        penjing.save(folder / name, tiny.model(tokenizer.vocab_size, context=128, seed=seed), tokenizer)
    return [Source(name, str(folder / name)) for name in "abc"]


def registry(sources, **options) -> Registry:
    return Registry(sources, device="cpu", precision="fp32", **options)


async def text_of(backend, ask=ASK) -> str:
    return "".join([piece.text async for piece in backend.answer(ask) if isinstance(piece, Text)])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("runs/tiny-chat/chat/model", "chat"),
        ("./models/all-MiniLM-L6-v2/", "all-MiniLM-L6-v2"),
        ("hf:org/small", "small"),
        ("models/fox.gguf", "fox"),
        ("mine=models/fox.gguf", "mine"),
    ],
)
def test_a_model_is_named_after_its_place_or_as_one_likes(text, name):
    assert Source.read(text).name == name


def test_what_cannot_be_served_is_refused_at_once(sources):
    for options, message in [
        (([],), "no model"),
        (([sources[0], sources[0]],), "two models are called 'a'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Registry(*options)
    with pytest.raises(ConfigError, match="cannot be a model's name"):
        Source.read("a b=x")
    with pytest.raises(CheckpointError):
        asyncio.run(registry([Source("no", "no/such/folder")]).check(()))


def test_an_unknown_name_suggests_the_nearest(sources):
    with pytest.raises(UnknownModelError, match=r"no model 'd'.*a, b, c"):
        asyncio.run(registry(sources).get("d"))


def test_models_are_read_when_asked_for_and_the_longest_unused_goes(sources):
    async def use():
        models = registry(sources, most=2)
        assert models.loaded() == []
        for name in ("a", "b", "a", "c"):
            await text_of(await models.get(name))
        loaded = models.loaded()
        await models.close()
        return loaded, models.loaded()

    assert asyncio.run(use()) == (["a", "c"], [])


def test_a_model_that_was_put_away_answers_as_before(sources):
    """A backend that is kept while its model goes reads it again by itself; exact."""

    async def use():
        models = registry(sources, most=1)
        kept = await models.get("a")
        first = await text_of(kept)
        other = await text_of(await models.get("b"))
        assert models.loaded() == ["b"]
        assert kept.count(ASK.messages) > 0  # its tokenizer is still there
        again = await text_of(kept)
        await models.close()
        return first, other, again

    first, other, again = asyncio.run(use())
    assert first == again
    assert first != other


def test_a_model_that_is_answering_is_not_put_away(sources):
    """The newcomer waits until the first answer is over."""

    async def use():
        models = registry(sources, most=1)
        pieces = (await models.get("a")).answer(ASK)
        await anext(pieces)
        waiting = asyncio.create_task(models.get("b"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert models.loaded() == ["a"]
        last = [piece async for piece in pieces][-1]
        assert isinstance(last, End)
        await text_of(await waiting)
        assert models.loaded() == ["b"]
        await models.close()

    asyncio.run(use())


def test_many_who_ask_at_once_wait_for_one_reading(sources):
    async def use():
        models = registry(sources)
        found = await asyncio.gather(*(models.get("a") for _ in range(5)))
        await models.close()
        return {id(backend) for backend in found}

    assert len(asyncio.run(use())) == 1


def test_whoever_stops_waiting_does_not_stop_the_reading(sources):
    async def use():
        models = registry(sources)
        task = asyncio.create_task(models.get("a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await text_of(await models.get("a"))
        assert models.loaded() == ["a"]
        await models.close()

    asyncio.run(use())


def test_a_model_that_cannot_be_read_fails_those_who_ask_and_no_others(sources, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{}")

    async def use():
        models = registry([sources[0], Source("bad", str(tmp_path / "bad"))])
        for _ in range(2):
            with pytest.raises(CheckpointError):
                await models.get("bad")
        text = await text_of(await models.get(None))
        await models.close()
        return text

    assert asyncio.run(use())


def test_a_dead_engine_is_replaced_when_its_model_is_next_asked_for(sources):
    async def use():
        models = registry(sources[:1])
        backend = await models.get("a")
        expected = await text_of(backend)
        host = models._held["a"].content.host
        host._build = lambda: 1 / 0
        host._engine.step = lambda: 1 / 0
        with pytest.raises(BackendError):
            await text_of(backend)
        assert await text_of(await models.get("a")) == expected
        assert models.fault() is None
        await models.close()

    asyncio.run(use())


def test_an_encoder_makes_vectors_and_writes_nothing(sources, tmp_path):
    """The vectors of `penjing.embed`; a text that is longer than it reads is refused, not cut."""
    model, words = test_encoder.CONFIG.build(), test_encoder.tokenizer()
    model.initialise(torch.Generator().manual_seed(1))
    save_encoder(tmp_path / "enc", model.eval(), words)

    async def use():
        models = registry([sources[0], Source("enc", str(tmp_path / "enc"))])
        with pytest.raises(PenjingError, match="encoder"):
            await models.get("enc")
        embedder = await models.embedder("enc")
        with pytest.raises(TooLongError):
            await embedder.embed(["a " * 5000])
        found = await embedder.embed(["tree pots", "a"])
        await models.close()
        return found

    vectors, read = asyncio.run(use())
    assert read == 4  # tree pot ##s, a
    assert vectors == pytest.approx(penjing.embed(model, words, ["tree pots", "a"]).numpy(), abs=1e-6)
