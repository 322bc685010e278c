"""The models that a server has, by name: each is read when it is first asked for, and put away when another needs room.

    registry = Registry([Source("tiny-chat", "runs/tiny-chat/chat/model"), Source("minilm", "models/minilm")], most=1)
    backend = await registry.get("tiny-chat")

A model's tokenizer and settings stay in memory once read; its weights and its engine come and go. The one that has not
been used for the longest goes first, never one that is answering: where all are, a newcomer waits for the first to
become idle.
"""

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from penjing.device import choose_device, choose_precision
from penjing.errors import ConfigError, PenjingError, nearest
from penjing.inference.engine.engine import Engine
from penjing.inference.engine.runner import tokens_that_fit
from penjing.inference.remote import Endpoint
from penjing.inference.sampling import preferred
from penjing.models.encoder_folder import load_encoder
from penjing.models.families import ENCODERS
from penjing.models.folder import CONFIG, read_values
from penjing.models.formats import load_model, load_tokenizer, read_config, read_generation
from penjing.serving.backend import Backend, Embedder, UnknownModelError
from penjing.serving.local import EncoderBackend, LocalBackend
from penjing.serving.logs import event
from penjing.serving.metrics import Metrics
from penjing.serving.process import in_process
from penjing.serving.remote import connect
from penjing.serving.service import EngineService, in_thread

if TYPE_CHECKING:
    from penjing.models.encoder import Encoder
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer

_NAME = re.compile(r"[\w.:/@+-]{1,128}")
_CONVERSATIONS = 16
"""How many conversations of full length an engine remembers, when there is the memory."""


@dataclass(frozen=True)
class Source:
    """A model to serve."""

    name: str
    """What clients call it."""
    place: str
    """Whatever `penjing.load` reads, or a folder with an encoder."""

    @classmethod
    def read(cls, text: str) -> "Source":
        """`NAME=PLACE`, or a place alone, which the model is then named after.

        Raises:
            ConfigError: the name cannot be one.

        >>> Source.read("runs/tiny-chat/chat/model").name, Source.read("fox=models/x.gguf").name
        ('chat', 'fox')
        """
        name, given, place = text.partition("=")
        if not given:
            place = text
            parts = [part for part in re.split(r"[/\\]", text.removeprefix("hf:")) if part not in ("", ".", "..")]
            parts = [part for part in parts if part != "model"] or ["model"]
            name = re.sub(r"\.(gguf|bin|pt)$", "", parts[-1])
        if not _NAME.fullmatch(name):
            raise ConfigError(f"'{name}' cannot be a model's name; name it with letters and digits: NAME={place}")
        return cls(name, place)


@dataclass(eq=False)
class _Held:
    """A model, in memory or not."""

    source: Source
    backend: "LocalBackend | EncoderBackend | None" = None
    content: "EngineService | Encoder | None" = None
    users: int = 0
    used: float = 0.0
    loading: "asyncio.Task[None] | None" = None


class Registry:
    """See the module. It is used from one event loop.

    Args:
        sources: the models; the first is the default.
        most: how many are in memory at most at a time; None: all.
        remote: whether models elsewhere will be added, so that there may be none here.
        device: where models go.
        precision: of their weights.
        seats: how many requests an engine answers at once.
        processes: whether each model's engine has a process of its own; encoders have none.
        tools: what models here have learned to call.
        metrics: is told of times and tokens.

    Raises:
        ConfigError: no model, or two of a name.
    """

    def __init__(
        self,
        sources: Sequence[Source] = (),
        *,
        most: int | None = None,
        remote: bool = False,
        device: str = "auto",
        precision: str = "auto",
        seats: int = 32,
        processes: bool = False,
        tools: Mapping[str, Callable[..., object]] | None = None,
        metrics: Metrics | None = None,
    ):
        names = [source.name for source in sources]
        if not names and not remote:
            raise ConfigError("there is no model to serve; name one: penjing serve MODEL")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"two models are called '{twice}'; name them: NAME=MODEL")
        if most is not None and most < 1:
            raise ConfigError(f"at most {most} models in memory are none; at least one must fit")
        self.created = int(time.time())
        self._held = {source.name: _Held(source) for source in sources}
        self._others: dict[str, Backend] = {}
        self._most = most
        self._place = (device, precision)
        self._seats = seats
        self._processes = processes
        self._tools = tools
        self._metrics = metrics
        self._changed = asyncio.Condition()
        self._one_at_a_time = asyncio.Lock()
        if metrics is not None:
            metrics.engines(self.figures)

    def names(self) -> list[str]:
        """See `Backends.names`."""
        return [*self._held, *self._others]

    def add(self, name: str, backend: Backend) -> None:
        """Serves a model elsewhere, too.

        Raises:
            ConfigError: there is one of that name.
        """
        if name in self.names():
            raise ConfigError(f"two models are called '{name}'; name the one here otherwise: NAME=MODEL")
        self._others[name] = backend

    async def check(self, endpoints: Sequence[Endpoint]) -> None:
        """Finds out, before a server starts, what is wrong with its first model or with the servers behind it.

        Raises:
            PenjingError: the model's files, or a server, are missing or not what they should be.
        """
        for endpoint in endpoints:
            for backend in await connect(endpoint):
                await backend.aclose()
        for held in self._held.values():
            await asyncio.to_thread(_look_at, held.source)

    async def ready(self, name: str) -> None:
        """Has a model here in memory.

        Raises:
            PenjingError: it cannot be loaded.
        """
        async with self._using(self._held[name]):
            pass

    async def get(self, name: str | None) -> Backend:
        """See `Backends.get`; the model's weights are in memory when it returns."""
        found = await self._find(name)
        if isinstance(found, EncoderBackend):
            raise PenjingError(f"'{found.name}' is an encoder: it makes embeddings, it writes no text")
        return found

    async def embedder(self, name: str | None) -> Embedder:
        """The model of that name, to make vectors with.

        Raises:
            UnknownModelError: there is none.
            PenjingError: it cannot be loaded, or runs elsewhere.
        """
        found = await self._find(name)
        if not isinstance(found, Embedder):
            raise PenjingError(f"the model '{found.name}' runs elsewhere; it gives no embeddings here")
        return found

    async def _find(self, name: str | None) -> "Backend | EncoderBackend":
        if name is None:
            name = self.names()[0]
        if name in self._others:
            return self._others[name]
        held = self._held.get(name)
        if held is None:
            raise UnknownModelError(f"there is no model '{name[:128]}' here{nearest(name[:128], self.names())}")
        async with self._using(held):
            assert held.backend is not None
            return held.backend

    def figures(self) -> dict[str, dict[str, float]]:
        """What is known of the engines, by model."""
        return {
            name: held.content.figures() for name, held in self._held.items() if isinstance(held.content, EngineService)
        }

    def fault(self) -> str | None:
        """What is wrong with a model in memory, or None; for `Health.checks`."""
        for name, held in self._held.items():
            if isinstance(held.content, EngineService) and (fault := held.content.fault) is not None:
                return f"{name}: {fault}"
        return None

    def loaded(self) -> list[str]:
        """The names of the models in memory."""
        return [name for name, held in self._held.items() if held.content is not None]

    async def close(self) -> None:
        """Puts all models away."""
        for held in self._held.values():
            await self._unload(held)
        for backend in self._others.values():
            if isinstance(backend, Closing):
                await backend.aclose()

    @asynccontextmanager
    async def _using(self, held: _Held) -> AsyncIterator[Any]:
        """The model in memory, for as long as the context lasts."""
        held.users += 1
        try:
            while held.content is None or _broken(held):
                if held.loading is None:
                    held.loading = asyncio.create_task(self._load(held))
                await asyncio.shield(held.loading)  # others may wait for it too, or come later
            held.used = time.monotonic()
            yield held.content
        finally:
            held.users -= 1
            held.used = time.monotonic()
            async with self._changed:
                self._changed.notify_all()

    async def _load(self, held: _Held) -> None:
        """Reads a model, once there is room; one at a time."""
        try:
            async with self._one_at_a_time:
                if held.content is not None:
                    await self._unload(held)
                await self._make_room()
                began = time.perf_counter()
                backend, content = await asyncio.to_thread(self._read, held)
                held.backend, held.content = held.backend or backend, content
                event("model loaded", model=held.source.name, seconds=round(time.perf_counter() - began, 3))
        finally:
            held.loading = None

    async def _make_room(self) -> None:
        """Puts the longest unused model away where one more would be too many; waits for one that is idle."""
        while self._most is not None and len(self.loaded()) >= self._most:
            idle = [other for other in self._held.values() if other.content is not None and not other.users]
            if idle:
                await self._unload(min(idle, key=lambda other: other.used))
            else:
                async with self._changed:
                    await self._changed.wait()

    async def _unload(self, held: _Held) -> None:
        content, held.content = held.content, None
        if isinstance(content, EngineService):
            await asyncio.to_thread(content.close)
        if content is not None:
            del content
            gc.collect()
            event("model put away", model=held.source.name)

    def _read(self, held: _Held) -> "tuple[LocalBackend | EncoderBackend, EngineService | Encoder]":
        """Reads a model's files."""
        source = held.source
        device = choose_device(self._place[0])
        if _is_encoder(source.place):
            encoder, tokenizer = load_encoder(source.place, device=device)
            return EncoderBackend(source.name, tokenizer, lambda: self._using(held)), encoder
        config = read_config(source.place)
        tokenizer = load_tokenizer(source.place, config.vocab)
        backend = LocalBackend(
            source.name,
            tokenizer,
            config.context,
            lambda: self._using(held),
            defaults=preferred(read_generation(source.place)),
            tools=self._tools,
            metrics=self._metrics,
        )
        return backend, self._service(source, tokenizer, device)

    def _service(self, source: Source, tokenizer: "Tokenizer", device: torch.device) -> EngineService:
        wanted, precision = self._place
        if self._processes:
            return in_process(source.place, device=wanted, precision=precision, seats=self._seats, name=source.name)
        dtype, _ = choose_precision(precision, device)
        model = load_model(source.place, device=device, dtype=dtype)
        return in_thread(lambda: engine_for(model, self._seats), tokenizer=tokenizer, name=source.name)


@runtime_checkable
class Closing(Protocol):
    """A backend that holds connections."""

    async def aclose(self) -> None:
        """Ends them."""


def _broken(held: _Held) -> bool:
    return isinstance(held.content, EngineService) and held.content.fault is not None


def engine_for(model: "LanguageModel", seats: int) -> Engine:
    """An engine that remembers some conversations of full length, if there is the memory."""
    context = model.config.context
    return Engine(model, tokens=max(context, min(tokens_that_fit(model), _CONVERSATIONS * context)), seats=seats)


def _look_at(source: Source) -> None:
    """Reads what is small of a model; nothing is downloaded.

    Raises:
        PenjingError: it is missing, or no model.
    """
    if not source.place.startswith("hf:") and not _is_encoder(source.place):
        read_config(source.place)


def _is_encoder(place: str) -> bool:
    """Whether a place is a folder with an encoder; what is wrong with it, if anything, its reader will say."""
    folder = Path(place)
    if not (folder / CONFIG).is_file():
        return False
    return read_values(folder).get("model_type") in ENCODERS
