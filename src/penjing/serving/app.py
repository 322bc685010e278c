"""The application: every part of the server, put together.

    app = create_app(ServeSettings(models=(Source.read("runs/tiny-chat/chat/model"),)))
    server.run(app)

`app.state` is what the parts share: `backends`, `limits`, `policy`, `moderator`, `store`, `metrics`, `health`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from penjing import __version__
from penjing.serving import health, metrics, session
from penjing.serving.api import errors, routes
from penjing.serving.backend import BackendError
from penjing.serving.health import Health
from penjing.serving.keys import KeyFile
from penjing.serving.logs import RequestLog, event
from penjing.serving.metrics import Metrics
from penjing.serving.middleware import Gate, Guard
from penjing.serving.registry import Registry
from penjing.serving.remote import RemoteBackend, connect
from penjing.serving.settings import ServeSettings


def create_app(settings: ServeSettings) -> FastAPI:
    """The application that these settings describe. Models are read when it starts (the first) and when asked for.

    Raises:
        PenjingError: a file that is named is missing or damaged, or a setting cannot be.
    """
    gate = Gate(
        settings.limits,
        Metrics(),
        RequestLog(prompts=settings.log_prompts),
        keys=None if settings.keys is None else KeyFile(settings.keys),
        origins=settings.origins,
        hosts=settings.hosts,
        secure=settings.secure,
    )
    registry = Registry(
        settings.models,
        most=settings.most_models,
        remote=bool(settings.remotes),
        device=settings.device,
        precision=settings.precision,
        seats=settings.seats,
        processes=settings.processes,
        tools=_tools(settings),
        metrics=gate.metrics,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for endpoint in settings.remotes:
            try:
                found = await connect(endpoint)
            except BackendError:
                if not endpoint.model:
                    raise
                event("backend is away", level=30, url=endpoint.url)
                found = [RemoteBackend(endpoint)]  # it may come back
            for backend in found:
                registry.add(backend.name, backend)
        if settings.models:
            await registry.ready(settings.models[0].name)
        app.state.health.begin()
        yield
        app.state.health.end()
        await registry.close()

    app = FastAPI(
        title="Penjing",
        version=__version__,
        summary="An OpenAI-compatible API for models that you can read.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    state = app.state
    state.backends, state.limits, state.metrics, state.health = registry, settings.limits, gate.metrics, Health()
    state.health.checks.append(registry.fault)
    state.policy, state.moderator, state.store = *_safety(settings), None
    errors.install(app)
    for router in (routes.router(), health.router(), metrics.router(), session.router(gate)):
        app.include_router(router)
    if settings.conversations is not None:
        from penjing.serving import conversations

        state.store = conversations.Store.open(settings.conversations, serve=True)
        app.include_router(conversations.router())
    if settings.page:
        from penjing.studio import pages

        app.include_router(pages.router(settings.runs))
    app.add_middleware(Guard, gate=gate)  # the last one added is the outermost
    return app


def _tools(settings: ServeSettings) -> dict[str, Callable[..., object]]:
    if not settings.calculator:
        return {}
    from penjing.data.world import calculator

    return {"calculator": calculator}


def _safety(settings: ServeSettings) -> tuple[Any, Any]:
    """The policy and the classifier, as far as they are wanted."""
    moderator = None
    if settings.moderation is not None:
        from penjing.serving.safety.moderator import Moderator

        moderator = Moderator.load(settings.moderation)
    if not settings.safety:
        return None, moderator
    from penjing.serving.safety.policy import Policy

    policy = Policy.read(settings.policy, moderator=moderator)
    return policy, policy.moderator
