"""Where tokens that are not the model's stand in a text: special ones, and those that were added to a vocabulary.

    find("a<|x|> <|x|>y")       (1, 6, x), (7, 12, x)      the longest of them at the leftmost place, again and again

Some tokens swallow the white space beside them, which then is part of the place where they stand.
"""

from collections.abc import Iterable, Iterator, Mapping

import regex


class Finder:
    """Finds tokens by their names.

    Args:
        ids: the tokens to find, with their ids.
        swallows: on which side of some of them, "left", "right" or "both", white space belongs to them.
    """

    def __init__(self, ids: Mapping[str, int], swallows: Mapping[str, str]):
        longest_first = sorted(ids, key=lambda token: (-len(token), token))
        self._pattern = regex.compile("|".join(map(regex.escape, longest_first)))
        self._ids, self._swallows = ids, swallows

    def __call__(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Start, end and id of each, in order."""
        position = 0
        for match in self._pattern.finditer(text):
            start, end = match.span()
            start, end = max(start, position), max(end, position)  # after the white space that the last one swallowed
            sides = self._swallows.get(match.group())
            if sides in ("left", "both"):
                while start > position and text[start - 1].isspace():
                    start -= 1
            if sides in ("right", "both"):
                while end < len(text) and text[end].isspace():
                    end += 1
            yield start, end, self._ids[match.group()]
            position = end


def with_gaps(tokens: Iterable[tuple[int, int, int]], length: int) -> Iterator[tuple[int, int, int | None]]:
    """`tokens`, `(start, end, id)`, and with None for an id what lies before, between and after them."""
    position = 0
    for start, end, number in tokens:
        if start > position:
            yield position, start, None
        yield start, end, number
        position = end
    if position < length:
        yield position, length, None
