"""Conversations: a tree of messages in a database, and the page's API to it, `/api/conversations`."""

from penjing.serving.conversations.database import default_path
from penjing.serving.conversations.router import router
from penjing.serving.conversations.store import Store

__all__ = ["Store", "default_path", "router"]
