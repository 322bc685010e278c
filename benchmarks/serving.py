"""The server under load, and beside `transformers serve`: the same model, the same questions, on the same machine.

    python benchmarks/serving.py load    --model runs/tiny-chat/chat/model [--clients 64] [--seconds 120] [--json]
    python benchmarks/serving.py compare --model runs/tiny-chat/chat/model [--clients 16] [--rounds 5] [--json]

load     clients that stream answers one after the other and, one time in five, hang up in the middle. Counted: answers,
         refusals (429), errors (anything else). The server's memory is measured each second; its slope is that of a
         line through the second half. In the end every question is asked alone, and each answer that was finished under
         load must be the same text, at temperature 0.
compare  both servers run; the one whose turn it is not is stopped (SIGSTOP), so that it takes no time. In each round
         each answers the same questions from the same number of clients, the order turned from round to round, and
         answers are compared. `transformers serve` is tried plainly and with --continuous-batching. Printed are the
         rounds' ratios: median, least, largest.

A model is any checkpoint folder with a chat template that both can read. The clients are in this process and are as
cheap as could be written: a line of a stream is looked at once.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

QUESTIONS = (
    "What is 37 times 48?", "Tell me a story about a fox.", "你好！你叫什么名字？", "Write one line about the rain.",
    "Who are you?", "请讲一个关于小猫的故事。", "What is the capital of France?", "Count to ten.",
    "How do I boil an egg?", "1 + 1 是多少？", "Name three colours.", "What did I ask you before?",
)  # fmt: skip
LENGTHS = (8, 24, 48)
HANG_UP = 0.2


@dataclass
class Answer:
    """What came of one request."""

    question: str
    tokens: int
    """At most, as asked."""
    status: int = 0
    text: str = ""
    reason: str = ""
    completed: int = 0
    """Tokens, as the server says."""
    first: float = 0.0
    seconds: float = 0.0
    hung_up: bool = False
    fault: str = ""


@dataclass
class Server:
    """A server in a process of its own."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    model: str
    log: Path
    stopped: bool = field(default=False)

    def memory(self) -> int:
        """Bytes, of its children too."""
        whole = psutil.Process(self.process.pid)
        return sum(part.memory_info().rss for part in (whole, *whole.children(recursive=True)))

    def pause(self, stop: bool) -> None:
        """Stops it, or lets it go on."""
        if stop != self.stopped:
            os.killpg(self.process.pid, signal.SIGSTOP if stop else signal.SIGCONT)
            self.stopped = stop

    def end(self) -> None:
        """Ends it."""
        self.pause(False)
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(40)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def start(name: str, command: Sequence[str], port: int, model: str, folder: Path) -> Server:
    """Starts a server and waits until it answers."""
    log = folder / f"{re.sub(r'[^a-z]+', '-', name)}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    server = Server(name, process, port, model, log)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        answer = asyncio.run(ask(server, QUESTIONS[0], 2, timeout=120)) if listening(port) else None
        if answer is not None and answer.status == 200 and not answer.fault:
            return server
        time.sleep(0.5)
    server.end()
    raise SystemExit(f"{name} does not answer; the end of its log:\n{log.read_text(errors='replace')[-3000:]}")


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ours(model: Path, folder: Path, precision: str) -> Server:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "penjing",
        "serve",
        f"model={model}",
        "--port",
        str(port),
        "--precision",
        precision,
    ]
    command += ["--conversations", str(folder / "conversations.db"), "--log-level", "warning", "--no-safety"]
    return start("penjing", command, port, "model", folder)


def theirs(model: Path, folder: Path, precision: str, batching: bool) -> Server:
    port = free_port()
    program = Path(sys.executable).parent / "transformers"
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    command = [str(program), "serve", str(model), "--port", str(port), "--dtype", dtype, "--device", "cpu"]
    if batching:
        command += ["--continuous-batching", "--no-cb-use-cuda-graph"]
        command += ["--cb-block-size", "32", "--cb-num-blocks", "512", "--cb-max-batch-tokens", "512"]
    name = "transformers serve --continuous-batching" if batching else "transformers serve"
    return start(name, command, port, str(model), folder)


async def ask(server: Server, question: str, tokens: int, *, leave_after: int = 0, timeout: float = 600) -> Answer:
    """Asks for a streamed answer; hangs up after so many pieces, if that is not 0."""
    answer = Answer(question, tokens)
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }
    if server.name == "penjing":  # the other tells the usage unasked
        body["stream_options"] = {"include_usage": True}
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    begin = time.perf_counter()
    writer = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
            writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            answer.status = int((await reader.readline()).split(b" ")[1])
            await read(reader, answer, begin, leave_after)
    except (OSError, ValueError, IndexError, TimeoutError) as fault:
        answer.fault = f"{type(fault).__name__}: {fault}"
    finally:
        answer.seconds = time.perf_counter() - begin
        if writer is not None:
            writer.transport.abort() if answer.hung_up else writer.close()
    return answer


async def read(reader: asyncio.StreamReader, answer: Answer, begin: float, leave_after: int) -> None:
    pieces = 0
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            return
        event = json.loads(line[6:])
        if "error" in event:
            answer.fault = str(event["error"])[:200]
            return
        if event.get("usage"):
            answer.completed = event["usage"]["completion_tokens"]
        for choice in event["choices"]:
            answer.reason = choice.get("finish_reason") or answer.reason
            if choice["delta"].get("content"):
                if not answer.text:
                    answer.first = time.perf_counter() - begin
                answer.text += choice["delta"]["content"]
                pieces += 1
        if leave_after and pieces >= leave_after:
            answer.hung_up = True
            return
    if answer.status == 200 and not answer.reason:
        answer.fault = "the stream ended without a reason"


def load(options: argparse.Namespace) -> dict[str, Any]:
    """Many clients for a while; see the module."""
    with tempfile.TemporaryDirectory() as name:
        server = ours(options.model, Path(name), options.precision)
        try:
            answers, memory = asyncio.run(storm(server, options.clients, options.seconds, options.seed))
            alone = {
                (question, tokens): asyncio.run(ask(server, question, tokens)).text
                for question, tokens in sorted({(answer.question, answer.tokens) for answer in answers})
            }
        finally:
            server.end()
    finished = [answer for answer in answers if answer.reason and not answer.fault]
    different = [answer for answer in finished if answer.text != alone[answer.question, answer.tokens]]
    errors = [answer for answer in answers if answer.fault or answer.status not in (200, 429)]
    half = memory[len(memory) // 2 :]
    return {
        "part": "load",
        "clients": options.clients,
        "seconds": options.seconds,
        "finished": len(finished),
        "hung_up": sum(answer.hung_up for answer in answers),
        "refused": sum(answer.status == 429 for answer in answers),
        "errors": len(errors),
        "kinds_of_errors": sorted({f"{answer.status} {answer.fault}"[:100] for answer in errors}),
        "different_from_alone": len(different),
        "memory_megabytes": round(half[-1][1] / 1e6, 1) if half else None,
        "slope_megabytes_a_minute": round(slope(half) * 60 / 1e6, 3) if len(half) > 2 else None,
        "slope_of_the_whole": round(slope(memory) * 60 / 1e6, 3) if len(memory) > 2 else None,
        "tokens_per_second": sum(answer.completed for answer in finished) / options.seconds,
        "first_token_seconds": statistics.median(answer.first for answer in finished) if finished else None,
    }


async def storm(
    server: Server, clients: int, seconds: float, seed: int
) -> tuple[list[Answer], list[tuple[float, int]]]:
    begin = time.monotonic()
    answers: list[Answer] = []
    memory: list[tuple[float, int]] = []

    async def client(number: int) -> None:
        chance = random.Random(f"{seed}/{number}")
        while time.monotonic() - begin < seconds:
            leave = chance.randrange(1, 8) if chance.random() < HANG_UP else 0
            answers.append(await ask(server, chance.choice(QUESTIONS), chance.choice(LENGTHS), leave_after=leave))
            if answers[-1].status == 429:
                await asyncio.sleep(1)

    async def watch() -> None:
        while True:
            memory.append((time.monotonic() - begin, server.memory()))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*map(client, range(clients)))
    watching.cancel()
    return answers, memory


def slope(points: Sequence[tuple[float, int]]) -> float:
    """Of the line through points with the least squares."""
    if len(points) < 2:
        return 0.0
    line = statistics.linear_regression([x for x, _ in points], [y for _, y in points])
    return line.slope


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both servers, in turns; see the module."""
    questions = [(QUESTIONS[number % len(QUESTIONS)], options.new) for number in range(options.requests)]
    with tempfile.TemporaryDirectory() as name:
        servers = []
        try:
            servers.append(ours(options.model, Path(name), options.precision))
            for batching in (False, True):
                servers[-1].pause(True)
                servers.append(theirs(options.model, Path(name), options.precision, batching))
            rates, firsts, texts = rounds(servers, questions, options)
        finally:
            for server in servers:
                server.end()
    result: dict[str, Any] = {"part": "compare", "clients": options.clients, "requests": options.requests}
    own = servers[0].name
    for server in servers:
        key = server.name.replace(" ", "_").replace("--", "")
        result[f"{key}_tokens_per_second"] = statistics.median(rates[server.name])
        result[f"{key}_first_token_seconds"] = statistics.median(firsts[server.name])
        if server.name != own:
            result[f"throughput_against_{key}"] = ratio(rates[own], rates[server.name])
            result[f"first_token_sooner_than_{key}"] = ratio(firsts[server.name], firsts[own])
            same = [a == b for a, b in zip(texts[own], texts[server.name], strict=True)]
            result[f"same_texts_as_{key}"] = sum(same) / len(same)
    return result


def rounds(
    servers: Sequence[Server], questions: Sequence[tuple[str, int]], options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, list[str]]]:
    """Of each server the tokens a second and the time to the first token, round by round, and the last texts."""
    rates: dict[str, list[float]] = {server.name: [] for server in servers}
    firsts: dict[str, list[float]] = {server.name: [] for server in servers}
    texts: dict[str, list[str]] = {}
    for number in range(-1, options.rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            for other in servers:
                other.pause(other is not server)
            begin = time.perf_counter()
            answers = asyncio.run(crowd(server, questions, options.clients))
            seconds = time.perf_counter() - begin
            faults = [answer for answer in answers if answer.fault or answer.status != 200]
            if faults:
                raise SystemExit(f"{server.name}: {faults[0]}")
            texts[server.name] = [answer.text for answer in answers]
            if number >= 0:  # the first round warms up
                rates[server.name].append(sum(answer.completed for answer in answers) / seconds)
                firsts[server.name].append(statistics.median(answer.first for answer in answers))
    return rates, firsts, texts


async def crowd(server: Server, questions: Sequence[tuple[str, int]], clients: int) -> list[Answer]:
    """All questions, by so many clients at once; the answers in the questions' order."""
    left = list(enumerate(questions))[::-1]
    answers: dict[int, Answer] = {}

    async def client() -> None:
        while left:
            number, (question, tokens) = left.pop()
            answers[number] = await ask(server, question, tokens)

    await asyncio.gather(*(client() for _ in range(clients)))
    return [answers[number] for number in range(len(questions))]


def ratio(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Median, least and largest of the rounds' ratios."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


PARTS = {"load": load, "compare": compare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint folder with a chat template")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--clients", type=int, help="64 for load, 16 for compare, if not said")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=48, help="questions in a round")
    parser.add_argument("--new", type=int, default=48, help="tokens of an answer at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # the servers are ended too
    given = options.clients
    for part in options.parts:
        options.clients = given or {"load": 64, "compare": 16}[part]
        result = PARTS[part](options)
        if options.json:
            print(json.dumps(result), flush=True)
            continue
        for name, value in result.items():
            if isinstance(value, list) and value and isinstance(value[0], float):
                value = f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"
            print(f"{name:60} {value:.4g}" if isinstance(value, float) else f"{name:60} {value}", flush=True)


if __name__ == "__main__":
    main()
