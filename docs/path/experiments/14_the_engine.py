"""Tokens a pass, static and continuous batches, long prompts in parts, second turns, pages over time."""

import itertools
import statistics
import time
from collections.abc import Sequence

import torch
from common import arguments, table, texts

from penjing.inference.blocks import wait as until_compiled
from penjing.inference.engine.engine import Engine
from penjing.inference.engine.request import Request
from penjing.inference.sampling import Sampling
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.training.plots import Curve, Plot

VOCAB, SEATS, WINDOW = 256, 8, 32  # tokens are bytes
LARGE, SMALL = (512, 8), (64, 2)  # width and layers: a model whose weights take long to read, and one for counting

Asked = tuple[list[int], int]


def model_of(width: int, layers: int, windows: Sequence[int | None] = (None,)) -> LanguageModel:
    """A LLaMA with random weights, its layers' windows in turn: what the texts say is of no matter here."""
    norm = RMSNorm.Config()
    blocks = tuple(
        Block.Config(
            mixer=Attention.Config(heads=8, kv_heads=4, rope=Rope.Config(), window=windows[layer % len(windows)]),
            mlp=SwiGLU.Config(hidden=width // 3 * 8),
            norm=norm,
        )
        for layer in range(layers)
    )
    model = LanguageModel.Config(VOCAB, width, blocks, 2048, norm, tied=True).build()
    model.initialise(torch.Generator().manual_seed(1))
    return model.eval()


def requests_of(documents: Sequence[str]) -> list[Asked]:
    """A prompt from each document, its first 40 bytes, and as many new tokens as it has words, 4 to 160."""
    return [(list(text.encode()[:40]), min(max(len(text.split()), 4), 160)) for text in documents]


def add(engine: Engine, asked: Asked, seed: int, before: Sequence[int] = ()) -> Request:
    """Puts a request into the queue; its seed is its number."""
    prompt, new = asked
    return engine.add([*before, *prompt], Sampling(seed=seed, max_new_tokens=new), row=seed)[0]


def show_tokens_a_pass() -> None:
    """How the time of a pass and the tokens a second grow with the requests at once."""
    model, rounds, new = model_of(*LARGE), 3, 64
    counts = (1, 2, 4, 8, 16, 32)
    engine, seconds = Engine(model, tokens=4096, seats=max(counts), reuse=False), {count: [] for count in counts}
    for number in range(rounds + 1):
        for count in counts:  # one after the other in each round, so that what disturbs a moment disturbs none alone
            for seed in range(count):
                add(engine, ([seed] * 16, new), seed)
            engine.step()  # reads the prompts
            while engine.busy:
                begin = time.perf_counter()
                engine.step()
                if number:  # in the first round kernels are compiled and weights laid out
                    seconds[count].append(time.perf_counter() - begin)
        until_compiled()
    times = [statistics.median(seconds[count]) / statistics.median(seconds[1]) for count in counts]
    passes = len(seconds[1])
    print(f"{model.parameter_count():,} weights; all in units of one request alone, medians of {passes} passes")
    lines = {"time of a pass": times, "tokens a second": [n / time for n, time in zip(counts, times, strict=True)]}
    rows = [[name, *(f"{number:.2f}" for number in line)] for name, line in lines.items()]
    table(["requests at once", *map(str, counts)], rows)


def served(model: LanguageModel, groups: Sequence[Sequence[Asked]]) -> tuple[int, float]:
    """Passes for groups of requests, each begun when the last is done; and the mean pass of a request's end."""
    engine, ends = Engine(model, tokens=8192, seats=SEATS, reuse=False), []
    for group in groups:
        running = [add(engine, asked, seed) for seed, asked in enumerate(group)]
        while engine.busy:
            engine.step()
            ends += [engine.metrics.passes] * sum(request.done for request in running)
            running = [request for request in running if not request.done]
    return engine.metrics.passes, statistics.mean(ends)


def show_batches(model: LanguageModel, asked: Sequence[Asked]) -> None:
    """Passes with batches that wait for their longest, and with seats that are taken again at once."""

    def batches(requests: Sequence[Asked]) -> list[Sequence[Asked]]:
        return [requests[start : start + SEATS] for start in range(0, len(requests), SEATS)]

    lengths = sorted(new for _, new in asked)
    total, ways = sum(lengths), {"static": batches(asked)}
    ways["static, sorted by length"] = batches(sorted(asked, key=lambda request: request[1]))
    ways["continuous"] = [asked]
    print(
        f"\n{len(asked)} requests of {lengths[0]} to {lengths[-1]} new tokens, {SEATS} seats: "
        f"{total} tokens, at least {-(-total // SEATS)} passes"
    )
    rows = []
    for name, groups in ways.items():
        passes, end = served(model, groups)
        rows.append([name, passes, f"{total / (passes * SEATS):.0%}", f"{end:.0f}"])
    table(["", "passes", "seats in use", "mean pass of a request's end"], rows)


def show_parts(model: LanguageModel) -> None:
    """Three requests generate when a prompt of 1,000 tokens comes, and after it one of 20."""
    print("\nThree texts are being written when a prompt of 1,000 tokens comes, and a pass later one of 20")
    rows, stopped = [], 0
    for step in (16, 64, 256, 1024):
        engine = Engine(model, tokens=8192, seats=SEATS, step=step, reuse=False)
        for number in range(3):
            add(engine, ([number] * 8, 1000), number)
        engine.step()
        newcomers = [add(engine, ([n % VOCAB for n in range(1000)], 4), 3)]
        reads, firsts = [], {}
        while len(firsts) < 2:
            before = engine.metrics.read
            written = {token.row for token in engine.step()}
            stopped += not written.issuperset(range(3))
            reads.append(engine.metrics.read - before)
            firsts |= {number: len(reads) for number, r in enumerate(newcomers) if r.times and number not in firsts}
            if len(newcomers) == 1:
                newcomers.append(add(engine, ([7] * 20, 4), 4))
        rows.append([step, max(reads), firsts[0], firsts[1] - 1, sum(reads[1 : firsts[1]])])
    head = ["a pass reads at most", "largest pass", "long: passes to its first token"]
    table([*head, "short: passes", "tokens read in them"], rows)
    print(f"passes in which one of the three had no token: {stopped}")


def show_second_turns() -> None:
    """What the second turn of a chat reads, and how long its first token takes, with and without the first's pages."""
    engine, rows = Engine(model_of(*LARGE), tokens=8192), []
    until_compiled()  # what is still being compiled would take the processor's time
    for length in (128, 512, 1536):
        reads, seconds = {}, {True: [], False: []}
        for turn, kept in itertools.product(range(5), (True, False)):
            first = add(engine, ([(number * 7 + 2 * turn + kept) % VOCAB for number in range(length)], 16), 1)
            while engine.busy:
                engine.step()
            if not kept:
                engine.forget()
            read = engine.metrics.read
            second = add(engine, ([*first.tokens, *range(20)], 1), 2)
            while engine.busy:
                engine.step()
            reads[kept] = engine.metrics.read - read
            seconds[kept].append(second.time_to_first_token)
        ratio = statistics.median(seconds[True]) / statistics.median(seconds[False])
        rows.append([length, length + 36, reads[False], reads[True], f"{ratio:.2f}"])
    print("\nThe second turn of a chat: the history, an answer of 16 tokens, a question of 20")
    table(["history", "prompt", "read when forgotten", "read when kept", "time to first token, ratio"], rows)


def show_pages(asked: Sequence[Asked], system: Sequence[int], every: int = 6) -> Plot:
    """Requests with one beginning come at fixed times to a cache that is too small for all of them."""
    model = model_of(SMALL[0], 3, (None, WINDOW, WINDOW))
    engine = Engine(model, tokens=512, seats=SEATS, step=64)
    coming, requests = list(enumerate(asked)), []
    held: dict[str, list[int]] = {"seen by all": [], f"a window of {WINDOW}": [], "each its own from the start": []}
    while coming or engine.busy:
        if coming and len(held["seen by all"]) % every == 0:
            seed, request = coming.pop(0)
            requests.append(add(engine, request, seed, system))
        engine.step()
        used = engine.cache.used
        longest = [len(r.prompt) + r.room for r in requests if r.pages is not None and not r.done]
        counts = used[None], used[WINDOW], sum(map(engine.cache.pages_of, longest))
        for line, count in zip(held.values(), counts, strict=True):
            line.append(count)
    alone = Engine(model, tokens=2048, reuse=False)
    same = 0
    for request, (seed, one) in zip(requests, enumerate(asked), strict=True):
        again = add(alone, one, seed, system)
        while alone.busy:
            alone.step()
        same += again.generated == request.generated
    metrics, pool = engine.metrics, engine.cache.sizes[None]
    print(f"\n{len(asked)} requests that begin with the same {len(system)} tokens, one every {every} passes")
    print(f"prompt tokens found in the cache: {metrics.cached_tokens} of {metrics.prompt_tokens}")
    print(f"pages held at most, of {pool}: {', '.join(f'{name} {max(line)}' for name, line in held.items())}")
    print(f"times that a request gave its pages back: {metrics.preempted}; answers as alone: {same}")
    curves = [Curve(name, range(len(line)), line) for name, line in held.items()]
    return Plot("Pages that texts hold", "pass", "pages of 16 tokens", curves, {"the pool has": pool})


def main() -> None:
    """Counts, times, prints; draws the pages."""
    args = arguments("14-the-engine", __doc__)
    documents = texts(args.data, 104)
    asked = requests_of(documents)
    show_tokens_a_pass()
    small = model_of(*SMALL)
    show_batches(small, asked[:64])
    show_parts(small)
    show_second_turns()
    show_pages(asked[64:], list(documents[0].encode()[:64])).save(args.image)


if __name__ == "__main__":
    main()
