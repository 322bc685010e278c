"""What the filters find: a stretch of text, what kind of thing it is, and how to take it out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HIDDEN = "HIDDEN"
"""The kind of what nobody sees."""


@dataclass(frozen=True)
class Finding:
    """A stretch of a text that some filter minds."""

    kind: str
    """What it is: "EMAIL", "KEY", "word", ..."""
    start: int
    """Of its first character."""
    end: int
    """Of the character after it."""
    why: str = ""
    """Which rule found it, in a few words; never the text itself."""


def without_overlaps(findings: Iterable[Finding]) -> list[Finding]:
    """The findings in the order of the text; of two that share characters the one that came first here stays."""
    kept: list[Finding] = []
    for found in findings:
        if found.start < found.end and all(found.end <= other.start or other.end <= found.start for other in kept):
            kept.append(found)
    return sorted(kept, key=lambda found: found.start)


def redacted(text: str, findings: Sequence[Finding]) -> str:
    """The text with each finding's place taken by its kind in angle brackets; what was hidden leaves no trace.

    Findings that share characters are taken out together, under the name of the longest.

    >>> redacted("Write to ann@example.org.", [Finding("EMAIL", 9, 24)])
    'Write to <EMAIL>.'
    """
    joined: list[Finding] = []
    for found in sorted(findings, key=lambda found: (found.start, -found.end)):
        if joined and found.start < joined[-1].end:
            last = joined.pop()
            longest = max(last, found, key=lambda one: one.end - one.start)
            found = Finding(longest.kind, last.start, max(last.end, found.end))
        joined.append(found)
    pieces, end = [], 0
    for found in joined:
        pieces += [text[end : found.start], "" if found.kind == HIDDEN else f"<{found.kind}>"]
        end = found.end
    return "".join(pieces) + text[end:]
