"""Models that answer by rule, and an application around them, for tests of conversations.

What a message of the user makes the model do:

    slowly: a b c      says "a ", "b ", "c ", each when the test allows it (`Rules.allow`)
    fail               breaks off after "Well, " because the model's server is away
    bug                breaks off because of a defect
    tool               calls a tool and says what it answered
    forever            says "more " until it is stopped
    anything else      is repeated: "You said: ..."
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from fastapi import FastAPI

from penjing.inference.sampling import DEFAULT, Sampling
from penjing.serving.backend import Ask, BackendError, End, Piece, Text, ToolCall, ToolResult, UnknownModelError, Usage
from penjing.serving.conversations import router
from penjing.serving.conversations.html import Markdown


@dataclass
class Rules:
    """A model that answers by rule. A word is a token, and a message costs two more."""

    name: str = "rules"
    context: int = 1000
    defaults: Sampling = DEFAULT
    asked: list[Ask] = field(default_factory=list)
    closed: int = 0

    def __post_init__(self) -> None:
        self._allowed = 0
        self._turn = threading.Condition()

    def allow(self, pieces: int = 1) -> None:
        """Lets a slow answer say so many more pieces; from any thread."""
        with self._turn:
            self._allowed += pieces
            self._turn.notify_all()

    def _wait(self) -> None:
        with self._turn:
            while not self._allowed:
                if not self._turn.wait(20):
                    raise TimeoutError("the test never allowed this piece")
            self._allowed -= 1

    def count(self, messages: Sequence, tools: Sequence = ()) -> int:
        return sum(len(message["content"].split()) + 2 for message in messages)

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece]:
        self.asked.append(ask)
        said = ask.messages[-1]["content"]
        text = ""
        try:
            async for piece in self._pieces(said, ask):
                text += piece.text if isinstance(piece, Text) else ""
                yield piece
            usage = Usage(self.count(ask.messages), len(text.split()))
            extra = self._tool_messages(text) if said == "tool" else ({"role": "assistant", "content": text},)
            yield End("stop", usage, extra)
        finally:
            self.closed += 1

    async def _pieces(self, said: str, ask: Ask) -> AsyncGenerator[Piece]:
        if said.startswith("slowly:"):
            for word in said.removeprefix("slowly:").split():
                await asyncio.to_thread(self._wait)
                yield Text(word + " ")
        elif said == "fail":
            yield Text("Well, ")
            raise BackendError("the model's server is away")
        elif said == "bug":
            raise RuntimeError("a defect")
        elif said == "forever":
            while True:
                yield Text("more ")
                await asyncio.sleep(0.001)  # a model takes its time
        elif said == "tool":
            yield ToolCall("call-1", "clock", {"zone": "东"})
            yield ToolResult("call-1", "clock", "12:00")
            yield Text("It is 12:00.")
        elif "summary" in said or "摘要" in said:
            yield Text(f"SUMMARY({len(said.split())})")
        else:
            for word in ("You said: " + said).split(" "):
                yield Text(word + " ")

    def _tool_messages(self, text: str) -> tuple:
        called = '<tool_call>{"name": "clock", "arguments": {"zone": "东"}}</tool_call>'
        return (
            {"role": "assistant", "content": called},
            {"role": "tool", "content": "12:00"},
            {"role": "assistant", "content": text},
        )


class OneModel:
    """A registry of one model."""

    def __init__(self, backend: Rules):
        self.backend = backend

    def names(self) -> list[str]:
        return [self.backend.name]

    async def get(self, name: str | None) -> Rules:
        if name not in (None, self.backend.name):
            raise UnknownModelError(f"there is no model '{name}'; there is: {self.backend.name}")
        return self.backend


@dataclass(frozen=True)
class Drawn:
    index: int
    html: str


class Paragraph:
    """The whole reply as one growing block."""

    def __init__(self) -> None:
        self.text = ""

    def push(self, piece: str) -> list[Drawn]:
        self.text += piece
        return [Drawn(0, f"<p>{self.text}</p>")]

    def flush(self) -> list[Drawn]:
        return []


PLAIN = Markdown(render=lambda text: f"<p>{text}</p>" if text else "", growing=Paragraph)


@dataclass(frozen=True)
class Decision:
    action: str
    text: str
    reasons: tuple = ()
    help: str | None = None
    message: str = ""


class WordPolicy:
    """Blocks a text with BAD in it, takes SECRET out, warns of ODD; replies are checked word by word."""

    moderator = None

    def check(self, text: str, where: str, *, user: str = "", context: str = "") -> Decision:
        if "BAD" in text:
            return Decision("block", "", ("a bad word",), None, "Say it kindly.")
        if "SECRET" in text:
            return Decision("redact", text.replace("SECRET", "[gone]"), ("a secret",))
        return Decision("warn", text, ("odd",)) if "ODD" in text else Decision("allow", text)

    def stream(self, *, user: str = "") -> "WordFilter":
        return WordFilter(self)


class WordFilter:
    def __init__(self, policy: WordPolicy):
        self.policy, self.held = policy, ""

    def push(self, piece: str):
        self.held += piece
        *whole, self.held = self.held.split(" ")
        for word in whole:
            yield from self._checked(word + " ")

    def flush(self):
        if self.held:
            yield from self._checked(self.held)

    def _checked(self, word: str):
        decision = self.policy.check(word, "output")
        if decision.action != "block":
            yield decision.text
        if decision.action != "allow":
            yield decision


def application(store, backend=None, policy=None) -> FastAPI:
    """An application with the routes of conversations; the user is named by a header."""
    app = FastAPI()
    app.state.store, app.state.backends = store, OneModel(backend or Rules())
    app.state.policy, app.state.markdown = policy, PLAIN

    @app.middleware("http")
    async def who(request, go_on):
        request.state.user = request.headers.get("x-user", "local")
        return await go_on(request)

    app.include_router(router())
    return app
