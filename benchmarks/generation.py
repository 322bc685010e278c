"""Greedy generation beside transformers: the same weights, the same prompts, turn by turn in one process.

    python benchmarks/generation.py [--sizes 15M 125M] [--batches 1 16] [--precisions fp32 bf16] [--rounds 5]
                                    [--prompt 32] [--new 64] [--threads N] [--json]

A LLaMA of random weights is made by transformers, saved, and loaded by Penjing. Each round times `generate` of
both, one after the other and the other way round in the next, so that whatever else the machine does meets both.
Printed are medians in tokens a second, and the median and spread of the rounds' ratios. In float32 both must give
the same ids; in bfloat16 rounding makes a random model's near ties fall either way, and how many tokens agree at
first is printed.

The first calls of each are not timed: transformers warms up, Penjing packs its weights (see `inference.packing`) and
compiles its kernels, once on a machine (`inference.blocks`); what the first call of ours took is printed too.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from penjing.inference import blocks
from penjing.inference.generate import generate_ids
from penjing.inference.sampling import Sampling
from penjing.models.folder import load_model

SIZES = {
    "2M": {"hidden_size": 160, "intermediate_size": 448, "num_hidden_layers": 6, "heads": 5, "vocab_size": 4096},
    "15M": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "heads": 6, "vocab_size": 32000},
    "125M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "heads": 12, "vocab_size": 32000},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def both(size: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The same model in transformers and here."""
    import transformers

    transformers.logging.set_verbosity_error()
    shape = dict(SIZES[size])
    heads = shape.pop("heads")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **shape, num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=1024
    )
    theirs = transformers.LlamaForCausalLM(config).to(dtype).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, load_model(folder)


def timed(call: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def compare(size: str, precision: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of both, taking turns."""
    theirs, ours = both(size, DTYPES[precision])
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(SIZES[size]["vocab_size"], (batch, options.prompt), generator=generator)
    sampling = Sampling(temperature=0, max_new_tokens=options.new)

    def run_theirs() -> list[list[int]]:
        with torch.inference_mode():
            found = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=options.new,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return found[:, options.prompt :].tolist()

    def run_ours() -> list[list[int]]:
        return [list(completion.ids) for completion in generate_ids(ours, ids.tolist(), sampling)]

    expected = run_theirs()
    first, found = timed(run_ours)
    blocks.wait()
    run_ours()
    if precision == "fp32" and found != expected:
        raise SystemExit(f"{size} {precision} batch {batch}: the ids differ")
    agree = [next((i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), options.new) for pair in zip(
        expected, found, strict=True
    )]  # fmt: skip
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    for number in range(options.rounds):
        turns = [("theirs", run_theirs), ("ours", run_ours)]
        for name, call in turns if number % 2 == 0 else reversed(turns):
            seconds[name].append(timed(call)[0])
    ratios = [a / b for a, b in zip(seconds["theirs"], seconds["ours"], strict=True)]
    tokens = batch * options.new
    return {
        "size": size,
        "precision": precision,
        "batch": batch,
        "transformers_tokens_per_second": tokens / statistics.median(seconds["theirs"]),
        "penjing_tokens_per_second": tokens / statistics.median(seconds["ours"]),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "first_call_seconds": first,
        "later_call_seconds": statistics.median(seconds["ours"]),
        "same_ids": found == expected,
        "tokens_agreeing_at_first": statistics.median(agree),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["15M", "125M"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens to generate")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.json:
        print(f"tokens/s with {options.threads} threads")
        print(f"{'':16} {'transformers':>13} {'penjing':>9} {'ratio':>6}  spread")
    for size, precision, batch in itertools.product(options.sizes, options.precisions, options.batches):
        result = compare(size, precision, batch, options)
        if options.json:
            print(json.dumps(result), flush=True)
            continue
        spread = f"{result['ratio_low']:.2f} to {result['ratio_high']:.2f}"
        same = "same ids" if result["same_ids"] else f"ids agree for {result['tokens_agreeing_at_first']:.0f} tokens"
        print(
            f"{size:>5} {precision} x{batch:<4} {result['transformers_tokens_per_second']:13.1f} "
            f"{result['penjing_tokens_per_second']:9.1f} {result['ratio']:6.2f}  {spread:13} {same}; first call "
            f"{result['first_call_seconds']:.2f} s, later {result['later_call_seconds']:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
