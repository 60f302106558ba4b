"""The shape of a fake backend, and the failures that it produces for tests."""

from __future__ import annotations

import msgspec

from services.engine.core import MemoryPolicy
from services.shared.structs import resolved


@resolved
class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a fake, and the failures it produces. Steps count from 1; 0 means never."""

    memory_policy: MemoryPolicy = MemoryPolicy.DENSE
    window: int = 48  # tokens of a sliding-window memory
    cached_sequences: int = 16
    hidden_cells: int = 0  # cells that are announced but cannot be used
    load_error: str = ""
    fail_at_step: int = 0
    fail_from_step: int = 0
    hang_at_step: int = 0
    abort_at_step: int = 0
    nan_at_step: int = 0
    takes_checkpoints: bool = True  # of a recurrent memory
    refuses_load: bool = False
    share_seconds: float = 0.0
    step_seconds: float = 0.0
