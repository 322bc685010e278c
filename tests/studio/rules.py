"""A backend that answers by rules, so that the browser's tests know what comes, and when."""

import asyncio
from collections.abc import AsyncIterator, Iterator

from penjing.inference.chat_model import End, Text, ToolCall, ToolResult, Usage
from penjing.inference.sampling import DEFAULT

HOSTILE = (
    "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'>\n\n"
    "[link](javascript:window.broken=3) ![spy](https://elsewhere.example/spy.png)\n\n"
    "```html\n<script>window.broken = 4</script>\n```\n\n| a |\n|---|\n| <iframe src=//x>\n\n"
    "**never closed *and `nor this\n\n```never\nclosed either <b>"
)
RICH = (
    "## A tray landscape\n\nA *penjing* is a **whole landscape** in a tray: $a^2 + b^2 = c^2$ holds in it too.\n\n"
    "1. Choose a tree\n2. Shape it, `wire` by wire\n3. Wait\n\n```python\ndef grow(tree, years):\n"
    '    """Slowly."""\n    return tree if years == 0 else grow(tree.pruned(), years - 1)\n```\n\n'
    "| tree | years |\n|---|--:|\n| pine | 40 |\n| maple | 12 |\n\n"
    "$$\n\\sum_{i=1}^{n} i = \\frac{n(n+1)}{2}\n$$\n\n> 咫尺千里\n"
)


def long_reply(size: int) -> str:
    """Some Markdown of everything, of about this many characters."""
    part = RICH.replace("## A tray landscape", "### Part")
    return part * (size // len(part))


class Rules:
    """What the last message asks for: `long N`, `endless`, `hostile`, `tool`, `rich`, or an echo with a number."""

    name = "rules"
    context = 2048
    defaults = DEFAULT

    def __init__(self) -> None:
        self.answers = 0
        self.stopped = 0

    def count(self, messages, tools=()) -> int:
        return sum(len(message["content"]) // 4 + 4 for message in messages)

    async def answer(self, ask) -> AsyncIterator:
        self.answers += 1
        asked = ask.messages[-1]["content"]
        written = 0
        try:
            if asked == "tool":
                yield ToolCall("call-1", "calculator", {"expression": "37 * 48"})
                yield ToolResult("call-1", "calculator", "1776")
            for piece in self._pieces(asked, ask):
                yield Text(piece)
                written += 1
                await asyncio.sleep(0.002 if not asked.startswith("long") else 0)
        except (GeneratorExit, asyncio.CancelledError):
            self.stopped += 1
            raise
        yield End("stop", Usage(self.count(ask.messages), written, 3), ())

    def _pieces(self, asked: str, ask) -> Iterator[str]:
        if asked.startswith("long "):
            text = long_reply(int(asked.split()[1]))
        elif asked == "endless":
            for number in range(10**6):
                yield f"{number} and on. " + ("\n\n" if number % 8 == 7 else "")
        elif asked == "hostile":
            text = HOSTILE
        elif asked == "rich":
            text = RICH
        elif asked == "tool":
            text = "It is 1776."
        else:
            system = next((one["content"] for one in ask.messages if one["role"] == "system"), "")
            text = f"Answer {self.answers} to **{asked}**" + (f" ({system})" if system else "") + "."
        if asked != "endless":
            size = 40 if asked.startswith("long") else 7
            yield from (text[start : start + size] for start in range(0, len(text), size))
