"""The states of a model in the pool.

    (new) ──► LOADING ◄──► WAITING        LOADING: its load is planned, or runs
                 │                        WAITING: for memory, in the memory queue
                 ▼
               READY ──► STOPPING

The arrows of this chart are the only changes of state, and `LoadedModel.move_to` is the only code
that makes one. A model in any state may be removed from the pool.
"""

from __future__ import annotations

from enum import Enum


class ModelState(Enum):
    """The state of a model in the pool. A model that backs off after crashes is not in the pool."""

    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"


TRANSITIONS = frozenset(
    {
        (ModelState.LOADING, ModelState.WAITING),
        (ModelState.WAITING, ModelState.LOADING),
        (ModelState.LOADING, ModelState.READY),
        (ModelState.READY, ModelState.STOPPING),
    }
)
