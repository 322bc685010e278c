"""Learning a vocabulary from text of any size.

Text is cut into chunks and the chunks are counted (`scan`, `counting`), a few megabytes at a time and on all cores;
the text itself is never kept, only the different chunks. Then the merges are learnt from the counts (`merging`), by the
rule and with the tie-breaking that `bpe` describes. The result does not depend on how many workers there are, on how
the files are cut into blocks, nor on the order of the documents.
"""

import codecs
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import chain
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import regex

from penjing.errors import DataError, TokenizerError
from penjing.tokenizer import merging
from penjing.tokenizer.bpe import BYTE_ORDER, BytePairModel
from penjing.tokenizer.counting import ChunkCounter
from penjing.tokenizer.patterns import SplitPattern
from penjing.tokenizer.scan import chunk_ends, utf8
from penjing.tokenizer.tables import MOST_TOKENS
from penjing.workers import in_order

BLOCK = 4 << 20
"""How many bytes of text a worker is given at a time."""
_LONGEST = 16 * BLOCK
"""How many bytes of a file are gathered at most while looking for a place to cut it."""
TEXT_SUFFIXES = (".txt", ".md", ".text")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is (0: not known)."""

_SAFE_CUT = regex.compile(r"(?r)(?<=\p{L})(?=[^\p{L}\p{N}\p{M}'])")


def train(
    source: Iterable[str] | str | Path | Sequence[Path],
    tokens: int,
    *,
    pattern: str | Sequence[str] | SplitPattern = "penjing",
    workers: int = 1,
    errors: str = "strict",
    least: int = 1,
    progress: Progress | None = None,
    reserved: int = 0,
) -> BytePairModel:
    """Learns a byte-level BPE model.

    Args:
        source: texts, one document each; or paths of text files and of folders with `.txt` and `.md` files, one
            document a file, read in blocks. (A string is a path.)
        tokens: how many tokens the model shall have, the 256 bytes included. It has fewer if no pair is left.
        pattern: how text is split; a pattern of one's own is run by `regex`, in processes if there are several workers.
        workers: threads that split and count.
        errors: "strict" refuses bytes that are not UTF-8, "replace" reads them as U+FFFD.
        least: a pair that occurs less often is not merged.
        progress: told how far it is.
        reserved: ids that the caller adds for special tokens; only for the text of an error.

    Raises:
        TokenizerError: `tokens` is below 256 or more than a tokenizer can have, or there is no text.
        DataError: a file is missing, unreadable or not UTF-8.
    """
    if tokens < 256:
        special = f" and {reserved} special tokens" if reserved else ""
        raise TokenizerError(
            f"a vocabulary of {tokens + reserved} cannot hold the 256 bytes{special}; ask for {256 + reserved} or more"
        )
    if tokens + reserved > MOST_TOKENS:
        raise TokenizerError(f"a vocabulary of {tokens + reserved:,} is too large; ask for {MOST_TOKENS:,} at most")
    if workers < 1:
        raise TokenizerError(f"workers is {workers}; at least one is needed")
    split_pattern = SplitPattern.of(pattern)
    counter = count_chunks(_blocks(source, errors, progress), split_pattern, workers)
    if len(counter) == 0:
        raise TokenizerError("the corpus is empty: there is no text to learn a vocabulary from")
    pairs = _learn(counter, tokens, max(least, 1), progress)
    merges = np.column_stack([pairs, np.arange(256, 256 + len(pairs), dtype=np.int32)])
    vocabulary = [bytes([byte]) for byte in BYTE_ORDER]
    for left, right in pairs.tolist():
        vocabulary.append(vocabulary[left] + vocabulary[right])
    return BytePairModel(vocabulary, merges, split_pattern)


Block = tuple[bytes, list[int]]
"""Some documents, or a part of one that ends where a chunk ends, as bytes; and where each ends in them."""


def count_chunks(blocks: Iterable[Block], pattern: SplitPattern, workers: int) -> ChunkCounter:
    """How often each different chunk occurs in `blocks`; at most two blocks a worker are held at a time."""
    counters = [ChunkCounter() for _ in range(workers)]
    if None in pattern.rules:
        for counted in in_order(partial(_count_by_regex, pattern), blocks, workers, processes=True):
            content, ends, weights = counted
            counters[0].add(np.frombuffer(content, dtype=np.uint8), ends, weights)
        return counters[0]
    idle: SimpleQueue[ChunkCounter] = SimpleQueue()
    for counter in counters:
        idle.put(counter)
    for _ in in_order(partial(_count_by_scan, pattern, idle), blocks, workers):
        pass
    largest = max(counters, key=len)
    for counter in counters:
        if counter is not largest:
            largest.absorb(counter)
    return largest


def _count_by_scan(pattern: SplitPattern, idle: "SimpleQueue[ChunkCounter]", block: Block) -> None:
    data = np.frombuffer(block[0], dtype=np.uint8)
    ends = chunk_ends(pattern, data, np.array(block[1], dtype=np.int64))
    counter = idle.get()
    try:
        counter.add(data, ends)
    finally:
        idle.put(counter)


def _count_by_regex(pattern: SplitPattern, block: Block) -> tuple[bytes, np.ndarray, np.ndarray]:
    counts: Counter[str] = Counter()
    start = 0
    for end in block[1]:
        counts.update(pattern.split(block[0][start:end].decode()))
        start = end
    chunks = [chunk.encode() for chunk in counts]
    lengths = np.fromiter(map(len, chunks), dtype=np.int64, count=len(chunks))
    return b"".join(chunks), np.cumsum(lengths), np.fromiter(counts.values(), dtype=np.int64, count=len(chunks))


def _learn(counter: ChunkCounter, tokens: int, least: int, progress: Progress | None) -> np.ndarray:
    """Runs `merging.learn` in a thread of its own, so that progress is told and Ctrl-C is heard."""
    order = np.empty(256, dtype=np.int32)
    order[np.frombuffer(BYTE_ORDER, dtype=np.uint8)] = np.arange(256, dtype=np.int32)
    symbols, ends, counts = order[counter.content], counter.ends, counter.counts
    state = np.zeros(2, dtype=np.int64)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(merging.learn, symbols, ends, counts, tokens - 256, least=least, progress=state)
        try:
            while wait([future], timeout=0.1).not_done:
                if progress is not None:
                    progress("learning merges", int(state[0]), tokens - 256)
        except BaseException:
            state[1] = 1
            raise
    if progress is not None:
        progress("learning merges", tokens - 256, tokens - 256)
    return future.result()


def _blocks(
    source: Iterable[str] | str | Path | Sequence[Path], errors: str, progress: Progress | None
) -> Iterator[Block]:
    """The text of `source` in blocks of about `BLOCK` bytes."""
    if isinstance(source, str | Path):
        yield from _blocks_of_files(_files(Path(source)), errors, progress)
        return
    items = iter(source)
    first = next(items, None)
    if isinstance(first, Path):
        paths = (Path(str(item)) for item in chain([first], items))
        yield from _blocks_of_files([file for path in paths for file in _files(path)], errors, progress)
    elif first is not None:
        yield from _blocks_of_texts((str(item) for item in chain([first], items)), progress)


def _blocks_of_texts(texts: Iterable[str], progress: Progress | None) -> Iterator[Block]:
    parts: list[bytes] = []
    ends: list[int] = []
    size = done = 0
    for text in texts:
        data = utf8(text)
        parts.append(data)
        size += len(data)
        ends.append(size)
        if size >= BLOCK:
            yield b"".join(parts), ends
            done += size
            parts, ends, size = [], [], 0
            if progress is not None:
                progress("counting chunks", done, 0)
    yield b"".join(parts), ends


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in TEXT_SUFFIXES and file.is_file())
        if not found:
            raise DataError(f"there are no text files ({', '.join(TEXT_SUFFIXES)}) in the folder {path}")
        return found
    if not path.exists():
        raise DataError(f"there is no file {path}")
    return [path]


def _blocks_of_files(paths: Sequence[Path], errors: str, progress: Progress | None) -> Iterator[Block]:
    total = sum(path.stat().st_size for path in paths)
    done = 0
    for path in paths:
        rest = ""
        for text, read in _decoded(path, errors):
            done += read
            rest += text
            cut = _SAFE_CUT.search(rest) if len(rest) < _LONGEST else None
            place = cut.end() if cut is not None else (len(rest) if len(rest) >= _LONGEST else 0)
            if place:
                data = rest[:place].encode()
                yield data, [len(data)]
                rest = rest[place:]
            if progress is not None:
                progress("counting chunks", done, total)
        data = rest.encode()
        yield data, [len(data)]


def _decoded(path: Path, errors: str) -> Iterator[tuple[str, int]]:
    """The text of a file in blocks, each with how many bytes were read for it."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    position = 0
    try:
        with path.open("rb") as file:
            while True:
                block = file.read(BLOCK)
                held = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as fault:
                    place, byte = position - held + fault.start, fault.object[fault.start]
                    raise DataError(
                        f"{path} is not UTF-8 text: byte {place} is 0x{byte:02X}; convert it, or have what is wrong "
                        "read as U+FFFD with errors='replace' (--errors replace)"
                    ) from None
                yield text, len(block)
                position += len(block)
                if not block:
                    return
    except OSError as fault:
        raise DataError(f"{path} cannot be read: {fault.strerror}") from None
