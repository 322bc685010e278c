"""How fast a model generates on this machine, and how fast it could at best.

A step for one text reads every weight of the linear maps once, and the keys and values of the text. So

    limit (tokens/s) = memory read rate / bytes read per token

and the share of it that is reached says how much is lost on anything else. With several texts a step reads the weights
once for all of them, and the limit becomes that of arithmetic.
"""

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from penjing.device import read_bandwidth
from penjing.errors import GenerationError
from penjing.inference import blocks
from penjing.inference.engine.engine import Engine
from penjing.inference.engine.runner import bytes_per_token
from penjing.inference.sampling import Sampling

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel

_STREAM_MEGABYTES = 512


@dataclass(frozen=True)
class Result:
    """What one measurement gives; medians over requests."""

    requests: int
    """Texts at once."""
    prompt: int
    """Tokens of each prompt."""
    new: int
    """Tokens generated for each."""
    time_to_first_token: float
    """Seconds from a request's arrival to its first token."""
    inter_token_latency: float
    """Seconds from one token of a request to its next."""
    tokens_per_second: float
    """New tokens of all requests together, prompts' time included."""
    decoding_tokens_per_second: float
    """New tokens of all requests together, once all have their first."""
    cache_bytes: int
    """Memory of the keys and values at the end."""


@dataclass(frozen=True)
class Limit:
    """What memory allows for one text."""

    read_gb_per_s: float
    """Gigabytes a second that this machine reads, measured."""
    weight_bytes: int
    """Of weights, per token."""
    cache_bytes: int
    """Of keys and values, per token, halfway through the text."""
    tokens_per_second: float
    """The rate divided by the bytes."""


def limit(model: "LanguageModel", prompt: int, new: int) -> Limit:
    """Measures the memory and counts what a token reads."""
    device = model.embedding.weight.device
    rate = read_bandwidth(device, _STREAM_MEGABYTES)
    weights = sum(m.weight.nbytes for m in model.modules() if isinstance(m, nn.Linear))
    cache = bytes_per_token(model) * (prompt + new // 2)
    return Limit(rate, weights, cache, rate * 1e9 / (weights + cache))


def measure(model: "LanguageModel", requests: int, prompt: int, new: int, rounds: int) -> Result:
    """Times several requests that come at once; two rounds before, with kernels being compiled, are not counted.

    Args:
        model: any.
        requests: how many at once.
        prompt: tokens of each prompt (ids without meaning; the time does not depend on them).
        new: tokens to generate for each.
        rounds: how many times; medians are given.

    Raises:
        GenerationError: the texts are longer than the model's context, or a number is below 1.
    """
    if min(requests, prompt, rounds) < 1 or new < 2:
        raise GenerationError("requests, prompt and rounds must be at least 1, and two new tokens at least")
    found = list(_rounds(model, requests, prompt, new, rounds + 2))[2:]
    middle = {name: statistics.median(round_[name] for round_ in found) for name in found[0]}
    return Result(requests, prompt, new, cache_bytes=requests * (prompt + new) * bytes_per_token(model), **middle)


def _rounds(model: "LanguageModel", requests: int, prompt: int, new: int, rounds: int) -> Iterator[dict[str, float]]:
    sampling = Sampling(temperature=0, max_new_tokens=new)
    vocab = model.config.vocab
    for number in range(rounds):
        engine = Engine(model, tokens=requests * (prompt + new + 32), seats=requests, reuse=False)
        running = [
            engine.add([(7 * n + 13 * place + number) % vocab for place in range(prompt)], sampling)[0]
            for n in range(requests)
        ]
        while engine.busy:
            engine.step()
        begin = min(request.arrived for request in running)
        all_began = max(request.times[0] for request in running)
        end = max(request.times[-1] for request in running)
        after = sum(time > all_began for request in running for time in request.times)
        blocks.wait()
        yield {
            "time_to_first_token": statistics.median(request.times[0] - request.arrived for request in running),
            "inter_token_latency": statistics.median(request.inter_token_latency or 0.0 for request in running),
            "tokens_per_second": requests * new / (end - begin),
            "decoding_tokens_per_second": after / (end - all_began),
        }


def as_json(result: Result | Limit) -> dict[str, Any]:
    """The fields by name."""
    return asdict(result)
