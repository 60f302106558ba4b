"""Limits that more than one layer enforces, from the api to the runner."""

from __future__ import annotations

MAX_ANSWERS = 64  # of one request: OpenAI's `n`

# How one model is loaded, in the engine's settings and in a model's own.
MAX_CONTEXT_LENGTH = 1 << 24  # tokens
MAX_SEQUENCES = 256
MIN_BATCH_TOKENS = 32
MAX_BATCH_TOKENS = 1 << 16
MAX_THREADS = 1024

MAX_MESSAGE_BYTES = 64 << 20  # of one gRPC message between the api and the engine
