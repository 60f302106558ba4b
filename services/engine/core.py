"""The facts front and runner both speak of: how to load, how to sample, why it ended.

Plain data, no behaviour beyond derived facts; msgspec structs, so that they cross the pipe as they
are (`runner/wire.py`). Everything is concrete here: defaults were filled in by `convert.py`.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Literal

import msgspec

from services.shared.structs import resolved

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class Lane(IntEnum):
    """Who waits for whom; lower goes first, ageing lifts the others."""

    INTERACTIVE = 0
    BACKGROUND = 1
    BATCH = 2


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class MemoryPolicy(Enum):
    """What a model's memory lets us do with a computed prefix; found by probing at load."""

    DENSE = "dense"  # cut and share at any token
    WINDOW = "window"  # sliding window: live sequences cut exactly, saved ones only whole
    RECURRENT = "recurrent"  # state at exact lengths only


class Sampling(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How the next token is chosen. Ranges are checked at the api's edge and again in convert."""

    temperature: float = 0.8  # 0 is greedy
    top_k: int = 40  # 0 is off
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64  # tokens; also the window of the other penalties
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    logit_bias: dict[int, float] = {}
    seed: int = 0


class Stopping(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """When an answer ends. `max_tokens` None: when the context is full."""

    max_tokens: int | None = None
    min_tokens: int = 0
    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


class Constraint(msgspec.Struct, frozen=True, array_like=True):
    """What the answer must match."""

    kind: Literal["json_schema", "regex", "lark", "gbnf"]
    source: str


class TextPiece(msgspec.Struct, frozen=True, array_like=True):
    """A part of a prompt; a literal piece never yields a control token."""

    text: str
    literal: bool = False


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One token's natural log-probability under the model's own distribution (no sampling).

    `text` is the token's bytes, which may be part of a character.
    """

    token: int
    text: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@resolved
class LoadConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All a runner needs to load one model. Paths come from the store, never from a request."""

    model_path: str  # a GGUF file (first part of a split one) or an MLX folder
    backend: Literal["llamacpp", "mlx", "fake"]
    context_length: int  # cells of the unified KV, shared by all sequences
    max_sequences: int = 16  # running at once
    batch_tokens: int = 2048  # tokens of one llama_decode at most
    gpu_layers: int = 0  # -1: all
    tensor_split: tuple[float, ...] = ()
    main_gpu: int = 0
    threads: int = 0  # 0: as many as there are cores for us
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    flash_attention: bool | None = None  # None: where the backend can
    # Prompt work may stretch a step by this while others generate; None: what suits the processor.
    target_step_seconds: float | None = None
    max_queued: int = 256
    speculate: bool = True


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner learnt by loading."""

    architecture: str
    vocab_size: int
    context_length: int  # cells in all
    trained_context_length: int
    max_sequences: int
    memory_policy: MemoryPolicy
    gpu_layers: int
    backend: str  # with its version, e.g. "llama.cpp 0.3.36"
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    # All of the above by the pool it comes from: "host", "cuda0", ...; empty where unknown.
    pool_bytes: dict[str, int] = {}


class Counters(msgspec.Struct, kw_only=True, array_like=True):
    """Totals since the runner started."""

    prompt_tokens: int = 0  # asked for
    computed_tokens: int = 0  # of those, decoded; the rest came from the cache
    completion_tokens: int = 0
    steps: int = 0
    decode_seconds: float = 0.0  # inside the backend
    step_seconds: float = 0.0  # all of a step, the backend's part included
    preemptions: int = 0
    draft_tokens: int = 0
    draft_accepted: int = 0
