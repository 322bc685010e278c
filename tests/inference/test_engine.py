"""The engine: whatever stands beside a request, and however it was served, it answers as it does alone."""

import random
from dataclasses import replace

import pytest
import torch

from penjing.errors import GenerationError
from penjing.inference.engine.cache import PageCache
from penjing.inference.engine.engine import Engine
from penjing.inference.engine.runner import PAGE, PlainRunner
from penjing.inference.sampling import Sampling
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.positions import LearnedPositions
from penjing.nn.rope import DynamicScaling, LongRopeScaling, Rope
from penjing.nn.swiglu import SwiGLU

VOCAB, CONTEXT = 53, 128


def model(*windows, softcap=None, rope=None, dtype=torch.float64, learned=False) -> LanguageModel:
    """A tiny model, a layer for each window, whose choices are far apart: float64, so that no rounding decides."""
    config = LanguageModel.Config(
        vocab=VOCAB,
        width=24,
        layers=tuple(
            Block.Config(
                mixer=Attention.Config(
                    heads=4, kv_heads=2, head_dim=6, rope=rope or Rope.Config(), window=window, softcap=softcap
                ),
                mlp=SwiGLU.Config(hidden=32),
                norm=RMSNorm.Config(),
            )
            for window in windows
        ),
        context=CONTEXT,
        norm=RMSNorm.Config(),
        positions=LearnedPositions.Config() if learned else None,
    )
    built = config.build()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in built.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.35, generator=generator)
    return built.to(dtype).eval()


FULL = model(None, None)
MIXED = model(None, 5, 20)
MODELS = {
    "full": FULL,
    "windows beside full layers": MIXED,
    "windows alone": model(7, 7),
    "soft-capped": model(None, 9, softcap=4.0),
    "rope by length": model(None, rope=Rope.Config(scaling=DynamicScaling(2.0, 24))),
    "learned positions": model(None, learned=True),
}


def uncached(model, prompt, steps):
    """Greedy by running the whole text for every token."""
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def run(engine, *requests):
    while engine.busy:
        engine.step()
    return [list(request.generated) for request in requests]


def alone(model, prompt, sampling, stop_ids, sample=0):
    """The request by itself, in an engine with room for everything and no memory of anything."""
    engine = Engine(model, tokens=CONTEXT * (sample + 2), seats=8, step=CONTEXT, reuse=False)
    requests = engine.add(prompt, sampling, stop_ids=stop_ids, samples=sample + 1)
    run(engine)
    return list(requests[sample].generated), requests[sample].reason


@pytest.mark.parametrize("name", [name for name in MODELS if name != "rope by length"])
def test_cached_equals_uncached(name):
    """Prompts of 1 to 70 tokens, read 16 at a time, and 40 new tokens each; the same ids as the whole text run anew."""
    engine = Engine(MODELS[name], tokens=4 * CONTEXT, step=16)
    prompts = [[number * 7 % VOCAB for number in range(length)] for length in (1, 17, 70)]
    requests = [engine.add(prompt, Sampling(temperature=0, max_new_tokens=40))[0] for prompt in prompts]
    for prompt, found in zip(prompts, run(engine, *requests), strict=True):
        assert found == uncached(MODELS[name], prompt, 40)


def test_a_text_never_depends_on_its_companions_where_the_rope_goes_by_length():
    """A short text beside one that is far beyond the trained length keeps its own frequencies."""
    served = MODELS["rope by length"]
    sampling = Sampling(temperature=0, max_new_tokens=10)
    engine = Engine(served, reuse=False)
    short, _ = (engine.add(prompt, sampling)[0] for prompt in ([3, 1, 4], list(range(50))))
    assert run(engine, short) == [alone(served, [3, 1, 4], sampling, ())[0]]


def test_texts_that_outgrow_longropes_trained_context_are_answered_as_anew():
    """Two texts in one engine, of which one crosses 24 tokens on its way: the ids of the whole text run anew."""
    scaling = LongRopeScaling(short=(1.0, 1.1, 1.2), long=(2.0, 3.0, 4.0), factor=4.0, original_context=24)
    served = model(None, rope=Rope.Config(scaling=scaling))
    engine = Engine(served, step=16)
    prompts = [[3, 1, 4], list(range(20))]
    found = run(engine, *(engine.add(prompt, Sampling(temperature=0, max_new_tokens=12))[0] for prompt in prompts))
    assert found == [uncached(served, prompt, 12) for prompt in prompts]


def random_schedule(seed: int) -> None:
    """Requests that come, share beginnings, and are cancelled at random, in a cache that is too small for them."""
    rng = random.Random(seed)
    served = MODELS[rng.choice([name for name in MODELS if name != "rope by length"])]
    longest = rng.choice([40, 64, 100])
    engine = Engine(
        served,
        tokens=longest + rng.choice([0, 16, 60, 300]),
        seats=rng.choice([1, 2, 5, 8]),
        step=rng.choice([16, 24, 64, 512]),
        reuse=rng.random() < 0.8,
    )
    beginnings = [[rng.randrange(VOCAB) for _ in range(rng.randrange(1, longest - 8))] for _ in range(3)]
    coming, asked = rng.randrange(3, 9), []
    while coming or engine.busy:
        if coming and (rng.random() < 0.4 or not engine.busy):
            coming -= 1
            prompt = rng.choice(beginnings)[: rng.randrange(1, longest)]
            prompt = [*prompt, *(rng.randrange(VOCAB) for _ in range(rng.randrange(4)))]
            sampling = Sampling(
                temperature=rng.choice([0, 0.9, 1.5]),
                top_k=rng.choice([None, 5]),
                top_p=rng.choice([None, 0.9]),
                repetition_penalty=rng.choice([1.0, 1.3]),
                frequency_penalty=rng.choice([0.0, 0.2]),
                max_new_tokens=rng.randrange(1, longest - len(prompt) + 1),
                seed=rng.randrange(100),
            )
            stop_ids = rng.sample(range(VOCAB), rng.choice([0, 2]))
            requests = engine.add(prompt, sampling, stop_ids=stop_ids, samples=rng.choice([1, 1, 1, 3]))
            asked += [(request, prompt, sampling, stop_ids, n) for n, request in enumerate(requests)]
        engine.step()
        running = [request for request, *_ in asked if not request.done]
        if running and rng.random() < 0.05:
            engine.cancel(rng.choice(running))
    for request, prompt, sampling, stop_ids, sample in asked:
        if request.reason != "cancelled":
            assert (list(request.generated), request.reason) == alone(served, prompt, sampling, stop_ids, sample)
    assert set(engine.cache.used.values()) == {0}, "the cache ends empty"
    engine.forget()
    assert engine.cache.available() == min(engine.cache.sizes.values()), "and no page is lost"


@pytest.mark.parametrize("seed", range(12))
def test_random_schedules_change_no_answer(seed):
    random_schedule(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 225))
def test_two_hundred_more_random_schedules_change_no_answer(seed):
    random_schedule(seed)


def test_small_caches_preempt_and_lose_nothing():
    """Four texts of 60 tokens in a cache of 100: some must wait, all answer as alone."""
    engine = Engine(FULL, tokens=100, seats=4)
    sampling = Sampling(temperature=0, max_new_tokens=50)
    prompts = [[number] * 10 for number in range(4)]
    found = run(engine, *(engine.add(prompt, sampling)[0] for prompt in prompts))
    assert engine.metrics.preempted > 0
    assert found == [uncached(FULL, prompt, 50) for prompt in prompts]


@pytest.mark.parametrize("served", [FULL, MIXED], ids=["full", "windows"])
def test_the_next_turn_reads_only_what_is_new(served):
    """A history of 70 tokens and an answer: the next turn finds all but its last token, and answers as one that reads
    all of it."""
    engine = Engine(served)
    sampling = Sampling(temperature=0, max_new_tokens=20)
    history = [number * 5 % VOCAB for number in range(70)]
    (first,) = engine.add(history, sampling)
    run(engine)
    (second,) = engine.add([*history, *first.generated, 7, 8], sampling)
    run(engine)
    assert first.cached == 0
    assert second.cached == 89  # five full pages and nine tokens of the sixth
    assert list(second.generated) == alone(served, second.prompt, sampling, ())[0]
    assert engine.metrics.cached_tokens == second.cached


def test_a_page_that_was_left_unfinished_is_taken_over_by_one_text_only():
    """Two texts go on from the same ended one at once: each writes its own tokens behind the shared ones."""
    engine = Engine(FULL, seats=2)
    sampling = Sampling(temperature=0, max_new_tokens=12)
    history = [number * 5 % VOCAB for number in range(22)]
    run(engine, engine.add(history, Sampling(temperature=0, max_new_tokens=1))[0])
    prompts = [[*history, 7, 8], [*history, 9]]
    requests = [engine.add(prompt, sampling)[0] for prompt in prompts]
    found = run(engine, *requests)
    assert [request.cached for request in requests] == [22, PAGE]
    assert found == [uncached(FULL, prompt, 12) for prompt in prompts]


def test_equal_pages_are_found_only_by_equal_tokens_before_them():
    """The same 16 tokens after another beginning have other keys and values, and are never taken for the same."""
    engine = Engine(FULL)
    sampling = Sampling(temperature=0, max_new_tokens=5)
    same = list(range(PAGE))
    run(engine, *engine.add([*([1] * PAGE), *same, 9], sampling))
    (other,) = engine.add([*([2] * PAGE), *same, 9], sampling)
    run(engine)
    assert other.cached == 0
    assert list(other.generated) == uncached(FULL, other.prompt, 5)


def test_windowed_layers_keep_only_their_window():
    """While 100 tokens grow, a window of 5 never holds more pages than it and the tokens of one pass span."""
    engine = Engine(MIXED, step=16)
    engine.add([3] * 20, Sampling(temperature=0, max_new_tokens=80))
    most = {}
    while engine.busy:
        engine.step()
        for window, pages in engine.cache.used.items():
            most[window] = max(pages, most.get(window, 0))
    assert most[None] == 7
    assert most[5] <= 3
    assert most[20] <= 4


def test_samples_share_their_prompt():
    """Five samples of a prompt of 40: it is read once, and its full pages are held once."""
    engine = Engine(FULL, seats=5)
    requests = engine.add([5] * 40, Sampling(seed=1, max_new_tokens=4), samples=5)
    engine.step()
    assert engine.metrics.read == 40
    assert engine.cache.used[None] == 2 + 5
    run(engine)
    assert [list(r.generated) for r in requests] == [
        alone(FULL, [5] * 40, Sampling(seed=1, max_new_tokens=4), (), sample)[0] for sample in range(5)
    ]


def test_a_cancelled_request_frees_its_memory_at_once():
    """Running, waiting, and as one of several samples whose prompt is still unread."""
    engine = Engine(FULL, seats=1, reuse=False)
    sampling = Sampling(temperature=0, max_new_tokens=30)
    (running,) = engine.add([1] * 30, sampling)
    (waiting,) = engine.add([2] * 30, sampling)
    first, second = engine.add([3] * 30, sampling, samples=2)
    engine.step()
    engine.cancel(waiting)
    engine.cancel(first)
    engine.cancel(running)
    assert engine.cache.used == {None: 0}
    run(engine)
    assert [r.reason for r in (running, waiting, first, second)] == ["cancelled"] * 3 + ["length"]
    assert list(second.generated) == alone(FULL, [3] * 30, sampling, ())[0]
    engine.cancel(second)
    assert second.reason == "length", "what has ended stays as it is"


def test_short_prompts_do_not_wait_for_a_long_one():
    """A prompt of 100 read 16 at a time; one of 5 that comes later has its first token long before it."""
    engine = Engine(FULL, step=16)
    (long,) = engine.add([1] * 100, Sampling(temperature=0, max_new_tokens=2))
    engine.step()
    (short,) = engine.add([2] * 5, Sampling(temperature=0, max_new_tokens=2))
    run(engine)
    assert short.times[0] < long.times[0]


def test_prompts_do_not_stop_those_that_generate():
    """While a prompt of 100 is read in parts, the other request gets a token in every pass."""
    engine = Engine(FULL, step=16)
    (first,) = engine.add([2] * 5, Sampling(temperature=0, max_new_tokens=30))
    engine.step()
    engine.add([1] * 100, Sampling(temperature=0, max_new_tokens=1))
    for _ in range(6):
        assert [token.row for token in engine.step()] == [first.row]


def test_prompt_and_answer_are_scored_by_the_models_log_softmax():
    """In parts of 16, with samples beside; within 1e-9 of the whole text's log-softmax, float64."""
    engine = Engine(FULL, step=16)
    prompt = [number * 3 % VOCAB for number in range(40)]
    run(engine, *engine.add(prompt, Sampling(temperature=0, max_new_tokens=1)))  # leaves pages that may not be used
    request, other = engine.add(prompt, Sampling(seed=2, max_new_tokens=6, logprobs=3), samples=2, prompt_logprobs=True)
    run(engine)
    expected = FULL(torch.tensor([request.tokens]))[0].log_softmax(-1)
    found = [*request.prompt_logprobs, *((token.logprob, token.top) for token in request.output)]
    assert len(found) == len(request.tokens) - 1
    for place, (logprob, top) in enumerate(found):
        assert abs(logprob - expected[place, request.tokens[place + 1]]) < 1e-9
        assert [id for id, _ in top] == expected[place].topk(3).indices.tolist()
    assert other.prompt_logprobs is None
    assert other.output[0].top == request.output[0].top


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_scores_are_of_the_tempered_distribution_where_that_is_asked(temperature):
    """Oracle: log_softmax of the whole sequence's logits over the temperature; float64."""
    network = model(None)
    engine = Engine(network)
    asked = Sampling(temperature=temperature, max_new_tokens=6, seed=1, logprobs=0, tempered_logprobs=True)
    (request,) = engine.add([3, 1, 4], asked)
    (other,) = engine.add([3, 1, 4], replace(asked, tempered_logprobs=False))
    while engine.busy:
        engine.step()
    assert request.generated == other.generated
    tokens = torch.tensor([request.tokens])
    logits = network(tokens)[0, 2:-1]
    for of, divisor in ((request, temperature), (other, 1.0)):
        exact = (logits / divisor).log_softmax(-1).gather(1, tokens[0, 3:, None])[:, 0]
        assert [token.logprob for token in of.output] == pytest.approx(exact.tolist(), abs=1e-5)


def test_no_scores_at_temperature_0():
    with pytest.raises(GenerationError, match="temperature is 0"):
        Sampling(temperature=0, logprobs=0, tempered_logprobs=True)


def test_a_steady_engine_does_not_look_at_the_clock_or_at_what_was_done_before(monkeypatch):
    """No choice of threads, no kernels that compile beside it, no weights that an earlier engine packed."""
    network, greedy = model(None, dtype=torch.float32), Sampling(temperature=0, max_new_tokens=20)
    expected = [alone(network, [3, 1, number], greedy, ())[0] for number in range(9)]

    def refuse(*_):
        pytest.fail("looked at the clock, or at what was done before")

    monkeypatch.setattr("penjing.inference.engine.runner.Threads.chosen", refuse)
    monkeypatch.setattr("penjing.inference.packing.packed_before", refuse)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine = Engine(network, steady=True)
        found = run(engine, *[engine.add([3, 1, number], greedy)[0] for number in range(9)])
    finally:
        torch.set_num_threads(before)
    assert found == expected
    assert engine._runner._blocks is None


def test_mixers_with_other_memories_are_served_one_by_one():
    """Without pages the answers are the same, guesses and small caches included."""
    sampling = Sampling(temperature=0.8, seed=4, max_new_tokens=20)
    paged, plain = Engine(FULL, seats=3), Engine(FULL, seats=3)
    plain._runner = PlainRunner(FULL, 200)
    plain.cache = PageCache(plain._runner.sizes, PAGE, 512, reuse=False)
    plain._scheduler.cache = plain.cache
    answers = []
    for engine in (paged, plain):
        requests = [engine.add([n] * (5 * n + 1), sampling, samples=2) for n in range(4)]
        run(engine)
        answers.append([list(request.generated) for group in requests for request in group])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions_stay_close_to_float64(dtype):
    """Log-probabilities of 30 tokens within the precision's own error of the float64 model's."""
    served = replace(FULL.config).build()
    served.load_state_dict(FULL.state_dict())
    served = served.to(dtype).eval()
    engine = Engine(served, step=16)
    prompt = [number * 3 % VOCAB for number in range(40)]
    (request,) = engine.add(prompt, Sampling(temperature=0, max_new_tokens=30, logprobs=0), prompt_logprobs=True)
    run(engine)
    expected = FULL(torch.tensor([request.tokens]))[0].log_softmax(-1)
    found = [*(logprob for logprob, _ in request.prompt_logprobs), *(token.logprob for token in request.output)]
    errors = [abs(value - expected[n, request.tokens[n + 1]].item()) for n, value in enumerate(found)]
    bound = {torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.6}[dtype]
    assert max(errors) < bound


def test_a_prompt_is_scored_once_also_when_it_is_read_twice():
    """A request that loses its memory after its prompt was scored reads it again and keeps the scores."""
    sampling = Sampling(temperature=0, max_new_tokens=45)
    engine = Engine(FULL, tokens=80, seats=2)
    (first,) = engine.add([4] * 20, sampling)
    (second,) = engine.add(list(range(20)), sampling, prompt_logprobs=True)
    run(engine)
    assert engine.metrics.preempted > 0
    expected = FULL(torch.tensor([second.prompt]))[0].log_softmax(-1)
    found = [logprob for logprob, _ in second.prompt_logprobs]
    assert found == pytest.approx([expected[n, n + 1].item() for n in range(19)], abs=1e-9)
    assert first.prompt_logprobs is None


def test_a_cache_too_small_for_the_context_bounds_the_texts():
    engine = Engine(FULL, tokens=50)
    assert engine.longest == 64
    with pytest.raises(GenerationError, match="context of 64"):
        engine.add([1] * 60, Sampling(max_new_tokens=10))
    (request,) = engine.add([1] * 60, Sampling(temperature=0, max_new_tokens=10), within_context=True)
    assert len(run(engine, request)[0]) == 4


def test_broken_weights_end_all_requests():
    served = replace(FULL.config).build()
    with torch.no_grad():
        for weight in served.parameters():
            weight.fill_(float("nan"))
    engine = Engine(served.eval(), seats=1)
    requests = [*engine.add([1, 2], Sampling(temperature=0), samples=2), *engine.add([3], Sampling())]
    with pytest.raises(GenerationError, match="not finite"):
        engine.step()
    assert [request.reason for request in requests] == ["cancelled"] * 3
    assert not engine.busy
    assert engine.cache.used == {None: 0}


@pytest.mark.parametrize("setting", ["tokens", "seats", "step"])
def test_impossible_engines_are_refused(setting):
    with pytest.raises(GenerationError, match=f"{setting} is 0"):
        Engine(FULL, **{setting: 0})
