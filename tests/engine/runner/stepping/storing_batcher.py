"""The step batcher over a fake backend that notes what is copied, with a real store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from services.engine.backends.fake import FakeBackend
from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import CacheKey, CacheStored, MemoryPolicy, Sampling, Stopping
from services.engine.messages.commands import Submit
from services.engine.runner.build import build_step_batcher
from tests.contracts.batching import BatchRun
from tests.contracts.storing import ALICE, build_cache, get_store
from tests.engine.runner.child_runner import Answered, fake_config, submit

ids = itertools.count(1)


class NotingBackend(FakeBackend):
    """Each state gets `padding` bytes more, so that it has a size like that of a real one."""

    padding = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.saved: list[tuple[int, int]] = []
        self.copied = 0  # bytes, both ways

    def save(self, sequence: int, start: int, end: int) -> bytes:
        state = super().save(sequence, start, end) + bytes(self.padding)
        self.saved.append((start, end))
        self.copied += len(state)
        return state

    def load(self, sequence: int, start: int, state: bytes | memoryview) -> bool:
        self.copied += len(state)
        return super().load(sequence, start, state[: len(state) - self.padding])


class StoringRun(BatchRun):
    """Requests for one batcher over a noting backend."""

    def __init__(self, folder: Path, behaviour: Behaviour, **settings: Any) -> None:
        path = folder / "behaviour.json"
        path.write_bytes(msgspec.json.encode(behaviour))
        fields = {"cache": build_cache(folder), "context_length": 2048, "batch_tokens": 128}
        config = fake_config(path, **fields | settings)
        backend = NotingBackend.open(config, lambda _: None)
        assert isinstance(backend, NotingBackend)
        self.backend = backend
        super().__init__(build_step_batcher(backend, config))
        self.store = get_store(self.batcher)

    def check_cells(self) -> None:
        """The pool and the backend count the same cells, once all operations are executed."""
        self.step()
        assert self.backend.cells_used == self.batcher.read_state().cells_used

    def stop(self) -> list[str]:
        """Write what waits; the names of the entries that were written, in order."""
        self.store.close(30.0)
        self.batcher.close()
        return [e.name for e in self.store.take_events() if isinstance(e, CacheStored)]


@contextmanager
def storing(
    folder: Path, policy: MemoryPolicy = MemoryPolicy.DENSE, **settings: Any
) -> Iterator[StoringRun]:
    """A batcher whose store is closed, and so written, at the end."""
    behaviour = Behaviour(memory_policy=policy, **settings.pop("behaviour", {}))
    run = StoringRun(folder, behaviour, **settings)
    try:
        yield run
    finally:
        run.stop()


def ask(
    tokens: Sequence[int], keys: tuple[CacheKey, ...] = ALICE, count: int = 6, **changes: Any
) -> Submit:
    """A greedy request for `count` tokens."""
    options: dict[str, Any] = {
        "tokens": tuple(tokens),
        "sampling": Sampling(temperature=0.0),
        "stopping": Stopping(max_tokens=count, ignore_eos=True),
        "cache_keys": keys,
        "realm": "alice",
    }
    return submit(next(ids), **options | changes)


def list_tokens(answered: Answered) -> str:
    return "".join(answered.text.values())


def compute(folder: Path, prompt: Sequence[int], **changes: Any) -> str:
    """The answer of a batcher that stores nothing."""
    with storing(folder) as run:
        return list_tokens(run.answer(ask(prompt, **changes | {"no_cache": True}))[0])
