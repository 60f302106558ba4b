"""Limits that more than one layer enforces, from the api to the runner.

The api refuses a value out of range first, so that its error names the field of the request. The
engine checks again: its settings, the files in `models.d` and the gRPC dialect reach it too.
"""

from __future__ import annotations

import re
from typing import Literal

# One request.
MAX_ANSWERS = 64  # OpenAI's `n`
PRIVATE_CACHE_KEY_BYTES = 32  # of a private key for stored prompts
MAX_CUTS = 4  # of a prompt: each may cost a copy of the model's state
PREFIX_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a named prefix, for fullmatch
MAX_STOP_STRINGS = 64
MAX_FUNCTION_NAME = 128  # characters of the name of a tool, as in MCP; OpenAI allows 64
MAX_STOP_CHARS = 1024  # of one stop string
MAX_CONSTRAINT_CHARS = 1 << 18  # of a JSON schema, regular expression or grammar
# Of one text that is forced or matched as a whole: a regular expression, a constant, the name of a
# property. Each token costs half a millisecond for each 1000 characters that it has left.
MAX_FORCED_CHARS = 1 << 14
# Optional properties and alternatives of a schema, alternatives of a grammar. Beyond about 700 at one
# place llguidance gives up while it answers.
MAX_CONSTRAINT_CHOICES = 1024
# White space in JSON that a schema describes, as in llama.cpp's own converter: enough to indent, but
# too little for a weak model to produce nothing else.
JSON_WHITESPACE = r"[ \t]?|\r?\n{1,2}[ \t]{0,20}"
MAX_DEADLINE_SECONDS = 1e9
MAX_TEMPERATURE = 100
MAX_TOP_K = 1 << 30
MIN_REPEAT_PENALTY = 1 / 128  # exact in the 32 bits in which it reaches the engine
MAX_REPEAT_PENALTY = 100
MAX_REPEAT_LAST_N = 1 << 20  # tokens
MAX_DRY = 100  # the multiplier and the base
MAX_DRY_ALLOWED_LENGTH = 1 << 20  # tokens

# How one model is loaded, in the engine's settings and in a model's own.
MAX_CONTEXT_LENGTH = 1 << 24  # tokens
MAX_SEQUENCES = 256
MIN_BATCH_TOKENS = 32
MAX_BATCH_TOKENS = 1 << 16
MAX_THREADS = 1024
MAX_GPU_LAYERS = 10_000
MAX_DEVICES = 16
MAX_PRIORITY = 10  # higher is evicted later; the lowest is -MAX_PRIORITY
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
KvMode = Literal["unified", "split"]
QUANTIZED_CACHE_TYPES = frozenset({"q8_0", "q5_1", "q5_0", "q4_1", "q4_0"})

MAX_MESSAGE_BYTES = 64 << 20  # of one gRPC message between the api and the engine
# Tokens of a prompt times the log-probabilities of each: they come in one message, of 40 MiB.
MAX_PROMPT_LOGPROBS = 1 << 20
MAX_TOKENIZED_TOKENS = 1 << 20  # of one text: each takes a number in four processes
MAX_DETOKENIZED_TOKENS = 1 << 18  # of one request; their text has MAX_SUBMIT_BYTES at most
MAX_EMBEDDING_TEXTS = 2048  # of one request, as OpenAI's
MAX_EMBEDDING_BYTES = 48 << 20  # of the vectors of one request: they come in one message
MAX_SUBMIT_BYTES = 8 << 20  # of one request to the engine, with all its prompts
MAX_FRAME_BYTES = 4 << 20  # of the requests in one frame, unless one alone is larger
