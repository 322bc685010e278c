"""Learning from preferences beside TRL: the same LLaMA, weights, pairs and batches, in turns.

    python benchmarks/alignment.py [--rounds 3] [--steps 6] [--pairs 16] [--json]

A 5.3-million-parameter LLaMA (width 256, 6 layers, SwiGLU 688, vocabulary 2,048), DPO in fp32 with AdamW and clipping,
16 pairs a step of the generated world's questions, right answers over those of other questions. The peers:

    trl             DPOTrainer with its reference in memory, as it comes but without gradient checkpointing
    trl cached      the same with precompute_ref_log_probs, as Penjing does

A step is timed from one step's end to the next one's, with whatever makes its batch. Memory is the peak of a process
that trains once, and how much of it came after the model and the pairs were there. Each contestant has processes of its
own; they run in turns.
"""

import argparse
import itertools
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from penjing.alignment.loader import ItemLoader
from penjing.alignment.pairs import Pair, pack_pairs, render_pairs
from penjing.alignment.preference import DPO
from penjing.alignment.reference import reference_log_probs
from penjing.alignment.sampled import prompts_of, world_items
from penjing.data import preferences
from penjing.data.preferences import Comparison
from penjing.models.folder import load_model, load_tokenizer, save
from penjing.stages.settings import Model
from penjing.tokenizer import Tokenizer
from penjing.training.adamw import AdamW
from penjing.training.budget import Budget
from penjing.training.metrics import read_metrics
from penjing.training.schedules import Constant
from penjing.training.trainer import Trainer

CONTEXT, VOCAB, PAIRS = 256, 2048, 512
RATE, CLIP = 3e-4, 1.0
Run = dict[str, Any]
Contestant = Callable[[int], Run]


def prepare(folder: Path) -> None:
    """A model with random weights and pairs for it."""
    items = world_items(PAIRS, notes=False)
    texts = [message["content"] for item in items for message in item.messages]
    tokenizer = Tokenizer.train(texts, VOCAB)
    model = Model(width=256, layers=6, heads=4, hidden=688, context=CONTEXT).config(tokenizer.vocab_size).build()
    model.initialise(torch.Generator().manual_seed(0))
    save(folder / "model", model, tokenizer)
    answers = [({"role": "assistant", "content": item.answer},) for item in items]
    pairs = [
        Comparison(tuple(prompt), right, wrong)
        for prompt, right, wrong in zip(prompts_of(items), answers, [*answers[1:], answers[0]], strict=True)
        if right != wrong
    ]
    preferences.write(folder / "pairs.jsonl", pairs)


def penjing(folder: Path, size: int, steps: int) -> Run:
    """Seconds of each step, the first loss, and memory in bytes."""
    model, tokenizer = load_model(folder / "model"), load_tokenizer(folder / "model")
    pairs, _ = render_pairs(preferences.comparisons(folder / "pairs.jsonl"), tokenizer, CONTEXT)
    before = peak()
    flat = reference_log_probs(model, [answer for pair in pairs for answer in pair.answers])
    both = zip(flat[::2], flat[1::2], strict=True)
    scored: list[Pair] = [replace(pair, reference=known) for pair, known in zip(pairs, both, strict=True)]
    config = Trainer.Config(
        budget=Budget(steps=steps + 1),
        optimizer=AdamW.Config(learning_rate=RATE, weight_decay=0.0),
        schedule=Constant(),
        clip=CLIP,
        precision="fp32",
        display="quiet",
    )
    loader = ItemLoader(scored, size, lambda items, origin: pack_pairs(items, origin))
    with tempfile.TemporaryDirectory() as out:
        config.build(model, DPO(), loader, Path(out)).run()
        lines = read_metrics(Path(out) / "metrics.jsonl")
    seconds = [after["seconds"] - now["seconds"] for now, after in itertools.pairwise(lines)]
    return {"seconds": seconds, "loss": lines[0]["loss"], "peak": peak(), "rise": peak() - before}


def trl(folder: Path, size: int, steps: int, *, cached: bool) -> Run:
    """Seconds of each step, the first loss, and memory in bytes."""
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer, LlamaForCausalLM, PrinterCallback, TrainerCallback
    from transformers.utils import logging
    from trl import DPOConfig, DPOTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        ends: list[float] = []  # noqa: RUF012

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())

    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = [
        {name: list(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")}
        for pair in preferences.comparisons(folder / "pairs.jsonl")
    ]
    before, clock = peak(), Clock()
    clock.ends = []
    with tempfile.TemporaryDirectory() as out:
        settings = DPOConfig(
            output_dir=out,
            max_steps=steps + 1,
            per_device_train_batch_size=size,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=CLIP,
            max_length=None,
            beta=0.1,
            precompute_ref_log_probs=cached,
            precompute_ref_batch_size=2 * size,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            optim="adamw_torch_fused",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = DPOTrainer(
            model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    first = next(line["loss"] for line in trainer.state.log_history if "loss" in line)
    seconds = [after - now for now, after in itertools.pairwise(clock.ends)]
    return {"seconds": seconds, "loss": first, "peak": peak(), "rise": peak() - before}


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(runs: dict[str, Contestant], rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Of each: seconds of a step, by what factor Penjing is faster, and memory."""
    found: dict[str, list[Run]] = {name: [] for name in runs}
    fresh = multiprocessing.get_context("spawn")
    for number in range(rounds):
        names = list(runs)[:: 1 if number % 2 else -1]  # nobody always goes first
        for name in names:
            with ExitStack() as stack:  # a process that has trained once has other memory at hand
                process = stack.enter_context(ProcessPoolExecutor(1, fresh))
                found[name].append(process.submit(runs[name], steps).result())
    times = {name: [statistics.median(run["seconds"]) for run in own] for name, own in found.items()}
    result = {}
    for name, own in times.items():
        ratios = [theirs / ours for ours, theirs in zip(times["penjing"], own, strict=True)]
        result[name] = {
            "seconds": statistics.median(own),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "first_loss": found[name][0]["loss"],
            "peak_mb": statistics.median(run["peak"] for run in found[name]) / 2**20,
            "rise_mb": statistics.median(run["rise"] for run in found[name]) / 2**20,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="DPO beside TRL.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        runs: dict[str, Contestant] = {
            "penjing": partial(penjing, folder, options.pairs),
            "trl": partial(trl, folder, options.pairs, cached=False),
            "trl cached": partial(trl, folder, options.pairs, cached=True),
        }
        results = compare(runs, options.rounds, options.steps)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"DPO, {options.pairs} pairs a step, {options.rounds} rounds of {options.steps} steps, fp32")
    for name, row in results.items():
        told = f"peak {row['peak_mb']:5,.0f} MB, in training {row['rise_mb']:5,.0f}, first loss {row['first_loss']:.6f}"
        if name != "penjing":
            told += f"   penjing is {row['ratio']:.2f} times as fast ({row['lowest']:.2f} to {row['highest']:.2f})"
        print(f"  {name:<11}{told}")


if __name__ == "__main__":
    main()
