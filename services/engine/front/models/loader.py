"""Bring one model up and take it down: every step that takes time, and its clean end.

prepare -> admission -> start the runner -> ready -> measure          bring_up
stop or kill the runner -> process gone -> its memory is back         take_down
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec
import psutil

from services.engine.front.models.load_planner import Preparation, Prepared
from services.engine.front.models.loaded_model import Model, State
from services.engine.front.models.memory_queue import Admission
from services.engine.front.models.residency import Residency
from services.engine.front.process.launcher import Program
from services.engine.memory.estimate import Footprint, corrected
from services.engine.memory.probe import HOST, Probe, free_bytes
from services.shared.errors import InsufficientMemory

STOP_GRACE_SECONDS = 10.0
_RETURN_SECONDS = 5.0  # for a driver to give a dead process's memory back
_RETURN_SHARE = 0.75  # of what was promised; what it really took may have been less
_OUT_OF_MEMORY_FACTOR = 1.25

logger = logging.getLogger(__name__)


class Lifecycle:
    """Loads and unloads models for the pool. Event loop only."""

    def __init__(
        self,
        program: Program,
        preparation: Preparation,
        admission: Admission,
        probe: Probe,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._program = program
        self._preparation = preparation
        self._admission = admission
        self._probe = probe
        self._clock = clock
        self.loads = 0  # begun so far; with those under way it tells whether one was alone
        self._under_way = 0

    async def bring_up(self, model: Model) -> None:
        """Load it. ModelLoadFailed (InsufficientMemory among them) says why not.

        When it raises, or is cancelled, the process has ended and holds nothing.
        """
        prepared = await self._preparation.prepare(model.manifest, model.settings)
        await self._admit(model, prepared)
        try:
            await self._load(model, prepared)
        except InsufficientMemory:
            # The backend ran out of memory where the plan said it would fit: the plan was wrong.
            logger.warning("load ran out of memory", extra={"model": model.name})
            larger = _larger(prepared)
            await self._admit(model, larger)
            await self._load(model, larger)

    async def take_down(self, model: Model, *, grace_seconds: float) -> None:
        """End its runner, if it has one, and wait until what it held is free again."""
        link, model.link = model.link, None
        try:
            if link is not None:  # a dead one's memory may be free already: keep the last measure
                model.free_bytes = free_bytes(self._probe)
                await link.stop(grace_seconds=grace_seconds)
        finally:
            await self.memory_returned(model)

    async def memory_returned(self, model: Model) -> None:
        """Wait until the driver agrees that a dead runner's memory is free; give up after a time."""
        before = model.free_bytes
        need = model.footprint.need if model.footprint is not None and model.has_memory else {}
        wanted = {
            name: before.get(name, 0) + size * _RETURN_SHARE
            for name, size in need.items()
            if name != HOST  # the kernel took that back before it told us of the end
        }
        deadline = self._clock() + _RETURN_SECONDS
        while any(free_bytes(self._probe).get(name, 0) < size for name, size in wanted.items()):
            if self._clock() > deadline:
                logger.warning("memory not seen returned", extra={"model": model.name})
                break
            await asyncio.sleep(0.05)
        model.has_memory = False

    async def _admit(self, model: Model, prepared: Prepared) -> None:
        model.config, model.footprint = prepared.config, prepared.footprint
        await self._admission.enter(model)

    async def _load(self, model: Model, prepared: Prepared) -> None:
        self.loads += 1
        self._under_way += 1
        loads, is_alone = self.loads, self._under_way == 1
        before, began = free_bytes(self._probe), self._clock()
        try:
            await model.start_runner(self._program, prepared.config)
        except BaseException:
            await self.take_down(model, grace_seconds=0)
            raise
        finally:
            self._under_way -= 1
        now = self._clock()
        model.residency = Residency(loaded_at=now, load_seconds=now - began, last_used=now)
        if is_alone and loads == self.loads:
            self._measure(model, prepared, before)
        model.move_to(State.READY)

    def _measure(self, model: Model, prepared: Prepared, before: dict[str, int]) -> None:
        """Correct the footprint by what this load, alone at its time, really took."""
        assert model.link is not None
        estimated = prepared.footprint
        after = free_bytes(self._probe)
        measured = {
            name: before.get(name, 0) - after.get(name, 0)
            for name in estimated.need
            if name != HOST
        }
        # Somebody else may have taken or freed memory meanwhile: believe only what is plausible.
        measured = {
            name: size
            for name, size in measured.items()
            if estimated.need[name] / 2 < size < estimated.need[name] * 2
        }
        own = _anonymous_bytes(model.link.pid)
        if own is not None:
            measured[HOST] = _host_bytes(estimated, own)
        model.footprint = corrected(estimated, measured)
        self._preparation.remember(Prepared(prepared.config, model.footprint), model.key)


def _larger(prepared: Prepared) -> Prepared:
    """The same load, promised more memory."""
    footprint = prepared.footprint
    reserve = {
        name: size + int(footprint.pool_bytes.get(name, 0) * (_OUT_OF_MEMORY_FACTOR - 1))
        for name, size in footprint.reserve_bytes.items()
    }
    return Prepared(prepared.config, msgspec.structs.replace(footprint, reserve_bytes=reserve))


def _host_bytes(estimated: Footprint, own_bytes: int) -> int:
    """What a runner takes of main memory, from its anonymous bytes.

    Weights there are usually mapped from the file, which anonymous memory does not show; but a
    backend may have copied them, and then it does.
    """
    expected = estimated.pool_bytes.get(HOST, 0)
    if own_bytes >= expected:
        return own_bytes
    return own_bytes + min(estimated.weights_bytes, expected)


def _anonymous_bytes(pid: int) -> int | None:
    """Bytes of a process that are no file's; None where the system does not tell."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    shared = getattr(memory, "shared", None)
    return None if shared is None else max(int(memory.rss) - int(shared), 0)
