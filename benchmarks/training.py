"""Training speed beside `transformers` and a plain PyTorch loop: same model, same weights, same batch, in turns.

    python benchmarks/training.py [--rounds 5] [--steps 6] [--json]

A 5.8-million-parameter LLaMA (width 256, 6 layers, SwiGLU 688, vocabulary 4,096), 16 rows of 256 tokens, AdamW,
clipping. The peers:

    plain           LlamaForCausalLM, torch.optim.AdamW as it comes, autocast for bf16
    fused           the same with AdamW(fused=True)
    pure bf16       the same with bf16 weights and no float32 master weights: faster, but small updates are lost
    litgpt          its GPT with the same weights' shapes, its loss, AdamW(fused=True); where litgpt is installed

And a GPT-2 of the same size (5.9 million) beside one that is written and trained as nanoGPT does it, with the fused
AdamW that nanoGPT keeps for GPUs.

Penjing's time is that of whole steps of the Trainer, metrics and all, from one line of metrics.jsonl to the next. Each
contestant has a process of its own, so that none inherits another's memory, threads or settings; they run in turns.
"""

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from shakespeare_char import PlainGPT
from transformers import LlamaForCausalLM
from transformers.utils import logging

from penjing.data.batch import TokenBatch
from penjing.models.folder import load_model, save
from penjing.models.language_model import LanguageModel
from penjing.stages.settings import Model
from penjing.training.adamw import AdamW
from penjing.training.budget import Budget
from penjing.training.metrics import read_metrics
from penjing.training.objectives import next_token
from penjing.training.schedules import Constant
from penjing.training.trainer import Trainer

ROWS, CONTEXT, VOCAB = 16, 256, 4096
Contestant = Callable[[int], list[float]]


def build_model(family: Literal["llama", "gpt2"] = "llama") -> LanguageModel:
    """The model of the comparison, with random weights."""
    hidden = {"llama": 688, "gpt2": 1024}[family]
    shape = Model(family=family, width=256, layers=6, heads=4, hidden=hidden, context=CONTEXT)
    model = shape.config(VOCAB).build()
    model.initialise(torch.Generator().manual_seed(0))
    return model


def make_batch() -> TokenBatch:
    """One batch of random tokens, the same for all."""
    rows = torch.randint(VOCAB, (ROWS, CONTEXT + 1), generator=torch.Generator().manual_seed(1))
    return TokenBatch(rows[:, :-1], rows[:, 1:], torch.ones(ROWS, CONTEXT, dtype=torch.bool))


class Repeating:
    """A loader of one batch."""

    def __next__(self) -> TokenBatch:
        return make_batch()

    def state_dict(self) -> dict[str, Any]:
        """It stands where it always stands."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nowhere to go."""


def penjing(folder: Path, precision: str, steps: int) -> list[float]:
    """Seconds of each step."""
    config = Trainer.Config(
        budget=Budget(steps=steps + 1),
        optimizer=AdamW.Config(learning_rate=3e-4),
        schedule=Constant(),
        precision=precision,
        display="quiet",
    )
    with tempfile.TemporaryDirectory() as out:
        config.build(load_model(folder), next_token, Repeating(), Path(out)).run()
        lines = read_metrics(Path(out) / "metrics.jsonl")
    return [after["seconds"] - before["seconds"] for before, after in itertools.pairwise(lines)]


def peer(folder: Path, steps: int, *, fused: bool, autocast: bool = False, pure: bool = False) -> list[float]:
    """Seconds of each step."""
    logging.disable_progress_bar()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if pure else torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=fused)
    batch = make_batch()

    def step() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model(input_ids=batch.tokens, labels=batch.tokens, use_cache=False).loss

    return loop(step, model, optimizer, steps)


def loop(step: Callable[[], torch.Tensor], model: torch.nn.Module, optimizer: Any, steps: int) -> list[float]:
    """Seconds of each step of a plain loop; `step` gives the loss."""
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        loss = step()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def litgpt(autocast: bool, steps: int) -> list[float]:
    """Seconds of each step of litgpt's model; its embedding and its head are two matrices, as it ties none."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=CONTEXT,
        padded_vocab_size=VOCAB,
        n_layer=6,
        n_head=4,
        n_embd=256,
        intermediate_size=688,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    model, batch = GPT(config).train(), make_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)

    def step() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return chunked_cross_entropy(model(batch.tokens), batch.targets, chunk_size=0)

    return loop(step, model, optimizer, steps)


def nanogpt(autocast: bool, steps: int) -> list[float]:
    """Seconds of each step of a GPT-2 as nanoGPT writes it, biases left out."""
    model, batch = PlainGPT(VOCAB, 256, 6, 4, CONTEXT).train(), make_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)

    def step() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model(batch.tokens, batch.targets)

    return loop(step, model, optimizer, steps)


def contestants(folder: Path) -> dict[str, dict[str, Contestant]]:
    """By precision and family: Penjing first, then its peers."""
    llama, gpt2 = folder / "llama", folder / "gpt2"
    runs: dict[str, dict[str, Contestant]] = {
        "fp32": {
            "penjing": partial(penjing, llama, "fp32"),
            "plain": partial(peer, llama, fused=False),
            "fused": partial(peer, llama, fused=True),
        },
        "bf16": {
            "penjing": partial(penjing, llama, "bf16"),
            "plain": partial(peer, llama, fused=False, autocast=True),
            "fused": partial(peer, llama, fused=True, autocast=True),
            "pure bf16": partial(peer, llama, fused=True, pure=True),
        },
    }
    for precision, theirs in list(runs.items()):
        if importlib.util.find_spec("litgpt"):
            theirs["litgpt"] = partial(litgpt, precision == "bf16")
        runs[f"{precision}, GPT-2"] = {
            "penjing": partial(penjing, gpt2, precision),
            "nanoGPT": partial(nanogpt, precision == "bf16"),
        }
    return runs


def compare(runs: dict[str, Contestant], rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Tokens a second of each, and by what factor Penjing is faster: median, lowest and highest over the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with ExitStack() as stack:
        fresh = multiprocessing.get_context("spawn")
        processes = {name: stack.enter_context(ProcessPoolExecutor(1, fresh)) for name in runs}
        for name, run in runs.items():
            processes[name].submit(run, 1).result()
        for number in range(rounds):
            names = list(runs)[:: 1 if number % 2 else -1]  # nobody always goes first
            for name in names:
                seconds[name].append(statistics.median(processes[name].submit(runs[name], steps).result()))
    result = {}
    for name, times in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(seconds["penjing"], times, strict=True)]
        result[name] = {
            "tokens_per_second": ROWS * CONTEXT / statistics.median(times),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed beside transformers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save(folder / "llama", build_model())
        save(folder / "gpt2", build_model("gpt2"))
        everything = contestants(folder)
        chosen = {name: runs for name, runs in everything.items() if name.startswith(options.precision or "")}
        results = {p: compare(runs, options.rounds, options.steps) for p, runs in chosen.items()}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for precision, rows in results.items():
        print(f"\n{precision}, {options.rounds} rounds of {options.steps} steps, {torch.get_num_threads()} threads")
        for name, row in rows.items():
            told = f"{row['tokens_per_second']:8,.0f} tokens/s"
            if name != "penjing":
                told += f"   penjing is {row['ratio']:.2f} times as fast ({row['lowest']:.2f} to {row['highest']:.2f})"
            print(f"  {name:<10}{told}")


if __name__ == "__main__":
    main()
