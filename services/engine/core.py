"""The facts that front and runner share: how to load, how to sample, why an answer ended.

Plain data without behaviour, as msgspec structs, which the messages between the two processes carry
as they are (messages/). Every option has a value here: front/rpc/from_proto.py and
front/models/planning/load_planner.py have filled in the defaults.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Literal

import msgspec

from services.shared.limits import CacheType, KvMode
from services.shared.structs import resolved

CacheTier = Literal["ram", "disk"]
CacheKind = Literal["block", "snapshot"]
CacheWrite = Literal["always", "second_use", "never"]
RejectReason = Literal[
    "missing",  # it was there when it was looked for
    "unreadable",  # the system reports an error
    "format",  # no header of an entry
    "version",  # of the format: another build of ours wrote it
    "size",  # truncated or extended
    "mismatch",  # its header belongs to another name
    "authentication",  # changed, of another prompt, model or build, or sealed with another key
]

HOST = "host"  # the memory pool that is main memory
CONTEXT_STEP = 256  # cells: a context is rounded up to a multiple of it
# Of main memory, that a runner may take after the load for the checkpoints of a recurrent model.
MAX_CHECKPOINT_BYTES = 512 << 20


class Lane(IntEnum):
    """The priority of a request: a smaller number goes first, and waiting raises the others."""

    INTERACTIVE = 0
    BACKGROUND = 1
    BATCH = 2


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class MemoryPolicy(Enum):
    """How a computed prefix of the model's memory can be reused; found by probing at load."""

    DENSE = "dense"  # can be cut and shared at any token
    WINDOW = "window"  # as dense, but some layers lose what lies before the window
    RECURRENT = "recurrent"  # a state exists at exact lengths only


class Sampling(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How the next token is chosen. front/rpc/from_proto.py checks the ranges."""

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
    """When an answer ends. With `max_tokens` None it ends when the context is full."""

    max_tokens: int | None = None
    min_tokens: int = 0
    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


class Trigger(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where an answer begins to be constrained: at a text that is not within its thinking."""

    text: str
    thinking_start: str = ""  # empty: the model does not think
    thinking_end: str = ""
    is_thinking: bool = False  # from the first token on, without the start
    only_at_start: bool = False  # nothing but thinking and blank space may come before it


class Constraint(msgspec.Struct, frozen=True, array_like=True):
    """What the answer must match."""

    kind: Literal["json_schema", "regex", "lark", "gbnf"]
    source: str
    before: str = ""  # a Lark grammar of what comes first, e.g. of thinking
    # What the constraint matches begins with this text, and may come several times or never; the
    # rest of the answer is free. None: all of the answer is constrained.
    trigger: Trigger | None = None


class TextPiece(msgspec.Struct, frozen=True, array_like=True):
    """A part of a prompt. A literal piece does not yield control tokens, and no token spans its ends."""

    text: str
    literal: bool = False


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One token's natural log-probability under the model's own distribution, before sampling.

    `text` holds the token's bytes, which may be a part of a character. `top` holds the likeliest
    tokens at its place.
    """

    token: int
    text: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@resolved
class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU that the installed llama.cpp can use, as it reports it."""

    name: str  # "cuda0": its kind, and its number among those that CUDA shows
    label: str  # for people, e.g. "NVIDIA H200"
    total_bytes: int
    pci_bus_id: str | None = None
    uses_main_memory: bool = False

    @property
    def kind(self) -> str:
        """Its name without the number."""
        return self.name.rstrip("0123456789")

    @property
    def pool(self) -> str:
        """The memory pool that its buffers are in."""
        return HOST if self.uses_main_memory else self.name


class CacheKey(msgspec.Struct, frozen=True, array_like=True):
    """The key of one tenant, in one epoch, for what is stored of computed prompts."""

    id: bytes  # 16 random bytes; not secret: each entry names the key that it is sealed with
    secret: bytes  # 32 bytes

    def __repr__(self) -> str:
        """Show the id alone, so that no log gets the secret."""
        return f"CacheKey({self.id.hex()})"


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where and when a runner stores computed prompts. The folders exist; the front sweeps them."""

    model_digest: str  # of the manifest: entries are bound to it
    disk_folder: str | None = None  # None: no such tier
    ram_folder: str | None = None  # on a tmpfs
    ram_max_bytes: int | None = None  # of its files, beyond which nothing is written
    # second_use: what was asked for before. never: what is stored is read only.
    write: CacheWrite = "always"
    min_free_bytes: int = 0  # that writing leaves free on the disk


@resolved
class LoadConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that a runner needs to load one model. The path comes from the store, not a request."""

    model_path: str  # a GGUF file (first part of a split one) or an MLX folder
    backend: Literal["llamacpp", "mlx", "fake"]
    context_length: int  # tokens of one sequence; of all together with a unified KV cache
    # unified: one memory for all sequences, which share prefixes at no cost. split: a memory of
    # `context_length` cells for each, so that no row of a step looks at the cells of others.
    kv_mode: KvMode = "unified"
    max_sequences: int = 16  # that run at the same time
    batch_tokens: int = 2048  # at most, in one step
    gpu_layers: int = 0  # -1: all
    # The memory pools of the GPUs that the runner sees, in the order in which it numbers them.
    devices: tuple[str, ...] = ()
    tensor_split: tuple[float, ...] = ()  # shares of several devices; empty for one
    threads: int = 0  # 0: one for each core of this process
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    flash_attention: bool | None = None  # None: where the backend supports it
    # By how much prompt work may lengthen a step for other requests; None: by the processor.
    target_step_seconds: float | None = None
    max_queued: int = 256
    speculate: bool = True
    embeds: bool = False  # open the context for embeddings and ranking with the model
    cache: CacheConfig | None = None  # None: computed prompts are not stored


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner knows about its model after the load, or after a dry run."""

    architecture: str
    vocab_size: int
    context_length: int  # tokens of one sequence at most
    trained_context_length: int
    # Longer sequences may get other positions (LongRoPE), from their first token on; 0: none do.
    short_context_length: int = 0
    max_sequences: int
    memory_policy: MemoryPolicy
    window: int = 0  # tokens of the sliding attention window; 0 without one
    gpu_layers: int
    backend: str  # with its version, e.g. "llama.cpp 0.3.36"
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    # The sum of the three sizes above by memory pool: "host", "cuda0", ...; empty where unknown.
    pool_bytes: dict[str, int] = {}
    embedding_bytes: dict[str, int] = {}  # the part of them for embeddings; empty while none


class RowCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows of a step cost on the device of a backend, where plans depend on it."""

    # From so many rows on, attention is computed in tiles of so many rows, which is cheaper deep in
    # a context; 1 where there is no such difference.
    tile_rows: int = 1
    # A row outside of a tile pays so many times as much per cell that it sees as a row of a tile
    # pays per cell in use.
    single_row_cost: int = 1
    efficient_rows: int = 512  # more rows in one step are not computed faster
    # What an idle cell of another sequence costs each row; 0 where it costs nothing.
    idle_cell_seconds: float = 0.0
    # By how much prompt work may lengthen a step for other requests, without a setting.
    prompt_seconds: float = 0.016


class Counters(msgspec.Struct, kw_only=True, array_like=True):
    """Totals since the start of the runner."""

    prompt_tokens: int = 0  # requested
    computed_tokens: int = 0  # of those, decoded; the rest came from the cache
    completion_tokens: int = 0
    steps: int = 0
    decode_seconds: float = 0.0  # in the backend
    step_seconds: float = 0.0  # in whole steps, including the backend's part
    preemptions: int = 0
    draft_tokens: int = 0
    draft_accepted: int = 0
    embedded_texts: int = 0  # and ranked ones
    embedded_tokens: int = 0


class CacheStored(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An entry of the prompt cache was written, or read on disk and copied to RAM."""

    name: str
    key_id: bytes
    tier: CacheTier
    kind: CacheKind
    size_bytes: int  # of the file
    tokens: int  # whose computation it saves
    seconds: float  # that their computation took
    start: int = 0  # tokens before them, whose entries a block is of no use without


class CacheUsed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An entry was read, or it was found for a prompt whose tokens were in the model's memory."""

    name: str
    tier: CacheTier
    size_bytes: int = 0  # of the file
    seconds: float = 0.0  # that computing its tokens took
    is_read: bool = True


class CacheRejected(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An entry could not be used, which was a miss.

    The front deletes it, but for "unreadable": that may be the fault of the system.
    """

    name: str
    tier: CacheTier
    reason: RejectReason


class CacheNotWritten(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An entry could not be written to a tier; the tier is not written to for some seconds."""

    tier: CacheTier
    reason: Literal["no space", "read-only", "missing folder", "error"]


CacheEvent = CacheStored | CacheUsed | CacheRejected | CacheNotWritten
