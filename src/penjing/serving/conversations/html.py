"""Messages as HTML for the page, without drawing the same text twice.

How markdown becomes safe HTML is not ours to know: it is given to us (the page's own module, by default), so that the
store and its routes work without a page.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_REMEMBERED = 8_000_000
"""Characters of HTML that are kept."""


class Drawn(Protocol):
    """A block of a growing reply that looks different now."""

    @property
    def index(self) -> int:
        """Which block of the reply."""

    @property
    def html(self) -> str:
        """What it looks like."""


class GrowingText(Protocol):
    """A reply that grows."""

    def push(self, piece: str) -> Sequence[Drawn]:
        """Adds to it; the blocks that changed."""

    def flush(self) -> Sequence[Drawn]:
        """The blocks that changed since; it is over."""


@dataclass(frozen=True)
class Markdown:
    """How text becomes HTML."""

    render: Callable[[str], str]
    """A whole text."""
    growing: Callable[[], GrowingText]
    """A new reply that grows."""

    @classmethod
    def of_the_page(cls) -> "Markdown":
        """As the page draws it."""
        from penjing.studio import markdown

        return cls(markdown.render, markdown.Growing)


class Html:
    """Draws whole texts, and remembers those drawn last."""

    def __init__(self, markdown: Markdown):
        self._markdown = markdown
        self._known: OrderedDict[str, str] = OrderedDict()
        self._size = 0
        self._turn = threading.Lock()

    def of(self, text: str) -> str:
        """A text as safe HTML."""
        with self._turn:
            if text in self._known:
                self._known.move_to_end(text)
                return self._known[text]
        html = self._markdown.render(text)
        with self._turn:
            if text not in self._known:
                self._known[text] = html
                self._size += len(html) + len(text)
                while self._size > _REMEMBERED and self._known:
                    old, drawn = self._known.popitem(last=False)
                    self._size -= len(old) + len(drawn)
        return html

    def growing(self) -> GrowingText:
        """A new reply."""
        return self._markdown.growing()

    def record(self, message: Any) -> dict[str, Any]:
        """A message as the page gets it; only replies are drawn."""
        return message.to_dict() | {"html": self.of(message.content) if message.role == "assistant" else ""}
