"""The routes that other programs call: OpenAI's API, and `/tokenize` and `/detokenize` beside it (`api.routes`)."""
