"""ROUGE-L: how much two texts have in common, in the same order.

    R = LCS(a, b) / |b|,   P = LCS(a, b) / |a|,   F = 2 P R / (P + R) = 2 LCS(a, b) / (|a| + |b|)

for the longest common subsequence of their words (Chinese characters count as words). It tells a question that was only
reworded a little from a new one. The subsequence is found with one big integer whose bits are the words of `a`: each
word of `b` takes a handful of operations on it, whatever the length.

Sources: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3; bits: Hyyrö, "Bit-parallel
LCS-length computation revisited", 2004; for new instructions: Wang et al., "Self-Instruct", 2022, arXiv:2212.10560,
section 2.2 (kept below 0.7).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from penjing.data.cleaning.minhash import words


def common_subsequence(one: Sequence[str], two: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    >>> common_subsequence("a b c d".split(), "b x d".split())
    2
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    everything = (1 << len(one)) - 1
    row = everything
    for word in two:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & everything
    return len(one) - row.bit_count()


def rouge_l(one: Sequence[str], two: Sequence[str]) -> float:
    """The F-measure of two texts' words, 0 to 1; 0 where both are empty."""
    return 2 * common_subsequence(one, two) / max(len(one) + len(two), 1)


class Texts:
    """Texts that are there already; asked of each new one whether it is too like one of them.

    Args:
        most: the ROUGE-L up to which a text is new.
    """

    def __init__(self, most: float = 0.7, texts: Iterable[str] = ()):
        self.most = most
        self._known: list[list[str]] = []
        for text in texts:
            self.keep(text)

    def has_like(self, text: str) -> bool:
        """Whether a kept text has a higher ROUGE-L with this one than `most`."""
        new = words(text)
        return any(
            2 * min(len(new), len(old)) > self.most * (len(new) + len(old)) and rouge_l(old, new) > self.most
            for old in self._known
        )

    def keep(self, text: str) -> None:
        """Remembers a text."""
        self._known.append(words(text))
