"""Texts that tokenizers stumble over, for all tests of this folder."""

from pathlib import Path

import pytest
from hypothesis import strategies as st

FRAGMENTS = [
    *[" ", "  ", "    ", "\n", " \n", "\r\n", "\t", "\u3000", "\u00a0", "\u200b", "\x00", "\x1f", "\ufeff"],
    *["a", "e", "the ", " The", "'s", "'RE", "Hello", "don't", "HTTPServer", "naïve", "e\u0301", "ﬁ", "Å", "ß", "İ"],
    *["0", "12", "2024", "1,000.5", "²", "Ⅷ", "٣", "盆", "盆景", "，", "。", "「", "ก็", "한국", "🎍", "👩‍🚀", "🇨🇳"],
    *["-", "--", "=", "####", "|||", "...", "/", "\\", "_", "▁", "▁▁", "<s>", "</s>", "<unk>", "<0x41>"],
    *["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<think>", "|||IP_ADDRESS|||"],
]


def hard_text(*more: str) -> st.SearchStrategy[str]:
    """Fragments in any order, and characters from all over Unicode between them."""
    # libraries know different versions of Unicode; what is assigned in all of them is treated alike
    anything = st.text(st.characters(codec="utf-8", exclude_categories=["Cn"]), max_size=5)
    return st.lists(st.one_of(st.sampled_from([*FRAGMENTS, *more]), anything), max_size=20).map("".join)


def corpus(data: Path, characters: int | None) -> list[tuple[str, str]]:
    """Every text there with its name: its beginning, or a stretch from its middle, of so many characters."""
    files = sorted(file for file in (data / "text").rglob("*") if file.suffix in (".txt", ".json", ".jsonl"))
    assert len(files) > 20
    texts = []
    for place, file in enumerate(files):
        text = file.read_text(encoding="utf-8")
        start = 0 if characters is None or place % 2 else len(text) // 2
        texts.append((file.name, text[start : start + characters if characters is not None else None]))
    return texts


WHOLE_OR_SLICE = pytest.mark.parametrize("characters", [2_000, pytest.param(None, marks=pytest.mark.slow)])
