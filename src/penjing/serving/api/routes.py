"""All routes of the API."""

from fastapi import APIRouter

from penjing.serving.api import chat, completions, models, responses, vectors


def router() -> APIRouter:
    """The routes of an application whose `state` has `backends`, `limits`, `policy` and `moderator`."""
    routes = APIRouter()
    for part in (chat, completions, responses, vectors, models):
        routes.include_router(part.router())
    return routes
