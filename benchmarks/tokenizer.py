"""Training and encoding beside `tokenizers` and tiktoken: the same text, the same vocabulary, turn by turn.

    python benchmarks/tokenizer.py [--megabytes 60] [--encode-megabytes 10] [--vocab 4096 32000] [--workers 1 2]
                                   [--rounds 5] [--data FOLDER] [--json]

The text is English, Chinese and Python source: what lies in the data folder (`../shared/data`, or PENJING_DATA) and
the standard library's modules, cut into documents of some 8 KB at line ends.

Training: each run is a process of its own (`tokenizers` sets its threads once a process), with its clock started after
imports and with the documents in memory. Both must learn the same merges. Compiling is not part of it (numba keeps what
it compiled); what it costs the first time is measured by itself.

Encoding: one thread, lists of ids from fresh tokenizers, so that nobody remembers the text; `tokenizers` by
`encode_batch_fast`, its fastest way. All must give the same ids.

A round runs each once, in an order that turns from round to round; printed are medians, and the median and spread of
the rounds' ratios.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

DOCUMENT = 8_000
PATTERN = "penjing"


def documents(data: Path | None, megabytes: float) -> list[str]:
    """English, Chinese and code in equal parts as far as they reach; the rest is code."""
    parts = {"english": _files(data, "en"), "chinese": _files(data, "zh"), "code": _code()}
    wanted = int(megabytes * 1e6)
    found: list[str] = []
    for place, (_, files) in enumerate(parts.items()):
        room = wanted // (len(parts) - place)
        for file in files:
            if room <= 0:
                break
            text = file.read_bytes()[:room].decode("utf-8", "ignore")
            room -= len(text.encode())
            wanted -= len(text.encode())
            found += _cut(text)
    return found


def _files(data: Path | None, language: str) -> list[Path]:
    if data is None:
        return []
    files = sorted(file for file in (data / "text").rglob("*") if file.suffix in (".txt", ".json", ".jsonl"))
    return [file for file in files if ("zh" in file.parts) == (language == "zh")]


def _code() -> list[Path]:
    library = Path(sysconfig.get_paths()["stdlib"])
    packages = Path(sysconfig.get_paths()["purelib"])
    own = sorted(file for file in library.rglob("*.py") if "site-packages" not in file.parts)
    return own + sorted(packages.rglob("*.py"))


def _cut(text: str) -> list[str]:
    pieces, piece, size = [], [], 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size >= DOCUMENT:
            pieces.append("".join(piece))
            piece, size = [], 0
    return [*pieces, "".join(piece)] if piece else pieces


def measure_training(who: str, corpus: Path, vocab: int, workers: int, out: Path) -> dict[str, Any]:
    """Seconds and peak memory of one training, in this process; writes the merges to `out`."""
    texts = json.loads(corpus.read_text(encoding="utf-8"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if who == "penjing":
        from penjing.tokenizer import Tokenizer, training

        training.train(["compiled before"], 257, pattern=PATTERN, workers=workers)
        start = time.perf_counter()
        tokenizer = Tokenizer.train(texts, vocab, pattern=PATTERN, special_tokens=(), workers=workers)
        seconds = time.perf_counter() - start
        merges = tokenizer.model.sections()["model"]["merges"]
    else:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        from penjing.tokenizer.patterns import PATTERNS

        peer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(PATTERNS[PATTERN]), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        peer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=alphabet)
        start = time.perf_counter()
        peer.train_from_iterator(texts, trainer, length=len(texts))
        seconds = time.perf_counter() - start
        merges = json.loads(peer.to_str())["model"]["merges"]
    out.write_text(json.dumps([list(pair) for pair in merges]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mib_above_corpus": (peak - before) / 1024}


def train_runs(corpus: Path, vocab: int, workers: int, rounds: int) -> dict[str, Any]:
    """Rounds of both, each run in its own process."""
    seconds: dict[str, list[float]] = {"tokenizers": [], "penjing": []}
    memory: dict[str, float] = {}
    same = True
    for turn in range(rounds):
        learnt = {}
        for who in sorted(seconds, reverse=bool(turn % 2)):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "merges.json"
                job = {"who": who, "corpus": str(corpus), "vocab": vocab, "workers": workers, "out": str(out)}
                result = _in_a_process(job, workers)
                learnt[who] = out.read_text()
            seconds[who].append(result["seconds"])
            memory[who] = max(memory.get(who, 0), result["peak_mib_above_corpus"])
        same = same and learnt["penjing"] == learnt["tokenizers"]
    return {
        "vocab": vocab,
        "workers": workers,
        "same_merges": same,
        "seconds": {who: statistics.median(times) for who, times in seconds.items()},
        "peak_mib_above_corpus": memory,
        "ratio": _ratio(seconds["tokenizers"], seconds["penjing"]),
    }


def _in_a_process(job: dict[str, Any], workers: int) -> dict[str, Any]:
    threads = {"RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": "true" if workers > 1 else "false"}
    command = [sys.executable, __file__, "--measure", json.dumps(job)]
    done = subprocess.run(command, env=os.environ | threads, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def encode_runs(texts: list[str], tokenizer: Any, rounds: int) -> dict[str, Any]:
    """Rounds of all three on one thread, in this process."""
    import tiktoken
    from tokenizers import Tokenizer as Peer

    from penjing.tokenizer.bpe import BytePairModel
    from penjing.tokenizer.patterns import PATTERNS
    from penjing.tokenizer.tokenizer import Tokenizer

    model = tokenizer.model
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        written = (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")
    ranks = {token: number for number, token in enumerate(model.tokens)}

    def penjing() -> tuple[float, list[list[int]]]:
        fresh = Tokenizer(BytePairModel(model.tokens, model.merges, PATTERN))
        fresh.encode("begin")
        start = time.perf_counter()
        ids = fresh.encode_batch(texts)
        return time.perf_counter() - start, ids

    def of_tiktoken() -> tuple[float, list[list[int]]]:
        fresh = tiktoken.Encoding("same", pat_str=PATTERNS[PATTERN], mergeable_ranks=ranks, special_tokens={})
        fresh.encode_ordinary("begin")
        start = time.perf_counter()
        ids = [fresh.encode_ordinary(text) for text in texts]
        return time.perf_counter() - start, ids

    def of_tokenizers() -> tuple[float, list[list[int]]]:
        fresh = Peer.from_str(written)
        fresh.encode("begin")
        start = time.perf_counter()
        ids = [encoding.ids for encoding in fresh.encode_batch_fast(texts, add_special_tokens=False)]
        return time.perf_counter() - start, ids

    runs = {"penjing": penjing, "tiktoken": of_tiktoken, "tokenizers": of_tokenizers}
    seconds: dict[str, list[float]] = {who: [] for who in runs}
    same = True
    for turn in range(rounds):
        ids = {}
        for who in list(runs)[turn % 3 :] + list(runs)[: turn % 3]:
            taken, ids[who] = runs[who]()
            seconds[who].append(taken)
        same = same and ids["penjing"] == ids["tiktoken"] == ids["tokenizers"]
    size = sum(len(text.encode()) for text in texts) / 1e6
    return {
        "megabytes": round(size, 1),
        "vocab": tokenizer.vocab_size,
        "same_ids": same,
        "megabytes_per_second": {who: size / statistics.median(times) for who, times in seconds.items()},
        "ratio_to_tiktoken": _ratio(seconds["tiktoken"], seconds["penjing"]),
        "ratio_to_tokenizers": _ratio(seconds["tokenizers"], seconds["penjing"]),
    }


def compile_time() -> dict[str, float]:
    """Seconds of a first training and encoding in a new process: with nothing compiled before, and again."""
    code = (
        "import time; start = time.perf_counter()\n"
        "from penjing.tokenizer import Tokenizer\n"
        "Tokenizer.train(['hello world'] * 3, 260).encode('hello')\n"
        "print(time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for _ in range(2):
            environment = os.environ | {"NUMBA_CACHE_DIR": folder}
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
            )
            times.append(float(done.stdout))
    return {"first_seconds": times[0], "later_seconds": times[1]}


def _ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    ratios = [peer / own for peer, own in zip(theirs, ours, strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def _told(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} times as fast ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=60, help="text to train on")
    parser.add_argument("--encode-megabytes", type=float, default=10, help="text to encode")
    parser.add_argument("--vocab", type=int, nargs="+", default=[4096, 32000], help="the last one is encoded with")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="the folder of real data")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        job = json.loads(options.measure)
        corpus, out = Path(job["corpus"]), Path(job["out"])
        print(json.dumps(measure_training(job["who"], corpus, job["vocab"], job["workers"], out)))
        return
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    data = options.data or Path(os.environ.get("PENJING_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    report = run(data if data.is_dir() else None, options)
    if options.json:
        print(json.dumps(report, indent=2))


def run(data: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Measures everything; prints each figure as it comes unless JSON is asked for."""
    from penjing.tokenizer import Tokenizer

    def say(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    report: dict[str, Any] = {"compile": compile_time(), "training": []}
    first, later = report["compile"].values()
    say(f"a first training and encoding in a new process: {first:.1f} s with compiling, {later:.1f} s ever after")
    texts = documents(data, options.megabytes)
    report["training_megabytes"] = round(sum(len(text.encode()) for text in texts) / 1e6, 1)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.json"
        corpus.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
        for vocab in options.vocab:
            for workers in options.workers:
                row = train_runs(corpus, vocab, workers, options.rounds)
                report["training"].append(row)
                seconds, memory = row["seconds"], row["peak_mib_above_corpus"]
                say(
                    f"training on {report['training_megabytes']} MB, vocabulary {vocab}, workers {workers}: tokenizers "
                    f"{seconds['tokenizers']:.2f} s, penjing {seconds['penjing']:.2f} s, {_told(row['ratio'])}; "
                    f"{'the same merges' if row['same_merges'] else 'OTHER MERGES'}; memory above the corpus "
                    f"{memory['tokenizers']:.0f} and {memory['penjing']:.0f} MiB"
                )
    tokenizer = Tokenizer.train(texts, options.vocab[-1], pattern=PATTERN, special_tokens=())
    row = report["encoding"] = encode_runs(documents(data, options.encode_megabytes), tokenizer, options.rounds)
    speed = row["megabytes_per_second"]
    say(
        f"encoding {row['megabytes']} MB, vocabulary {row['vocab']}, one thread: tokenizers {speed['tokenizers']:.1f}, "
        f"tiktoken {speed['tiktoken']:.1f}, penjing {speed['penjing']:.1f} MB/s; "
        f"{'the same ids' if row['same_ids'] else 'OTHER IDS'}"
    )
    say(f"  beside tokenizers {_told(row['ratio_to_tokenizers'])}, beside tiktoken {_told(row['ratio_to_tiktoken'])}")
    return report


if __name__ == "__main__":
    main()
