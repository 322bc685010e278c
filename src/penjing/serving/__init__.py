"""The server: an OpenAI-compatible API, conversations, safety, and the page, before any model (`serving.app`)."""
