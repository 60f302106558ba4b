"""Run a batcher without a loop around it, on every kind of model and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import LoadConfig, MemoryPolicy
from services.engine.messages import Submit
from services.engine.runner.batcher import Batcher
from services.engine.runner.build import build_input_processor
from services.engine.runner.requests.input_processor import InputProcessor
from services.engine.runner.requests.output_processor import OutputProcessor
from tests.conftest import TINY_GGUF
from tests.engine.runner.child_runner import Answered

MAX_STEPS = 5000

# Each kind: a model, or the memory policy of a fake one, and the settings of its load.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "fake dense": ("dense", {}),
    "fake window": ("window", {}),
    "fake recurrent": ("recurrent", {}),
    "tiny": ("tiny", {}),
    "tiny q8_0": ("tiny", {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}),
    "tiny without flash attention": ("tiny", {"flash_attention": False}),
    "window": ("tiny-window", {}),
    "window q8_0": ("tiny-window", {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}),
    "recurrent": ("tiny-recurrent", {}),
    "hybrid": ("tiny-hybrid", {}),
    "hybrid q8_0": ("tiny-hybrid", {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}),
}


def build_config(
    kind: str, folder: Path, synthetic: Callable[[str], Path], **changes: Any
) -> LoadConfig:
    """The load of one kind; a fake one gets its behaviour from a file in `folder`."""
    model, settings = KINDS[kind]
    is_fake = kind.startswith("fake")
    if is_fake:
        path = folder / f"{model}.json"
        path.write_bytes(msgspec.json.encode(Behaviour(memory_policy=MemoryPolicy(model))))
    else:
        path = TINY_GGUF if model == "tiny" else synthetic(model)
    fields: dict[str, Any] = {
        "model_path": str(path),
        "backend": "fake" if is_fake else "llamacpp",
        "context_length": 1024,
        "max_sequences": 6,
        "batch_tokens": 128,
        "threads": 1,
    }
    return LoadConfig(**fields | settings | changes)


class BatchRun:
    """Requests for one batcher, and all that it reported about them."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.answered: dict[int, Answered] = {}
        self._input_processor: InputProcessor = build_input_processor(batcher)
        self._output_processor = OutputProcessor(batcher.counters)

    def add(self, *submits: Submit) -> None:
        for submit in submits:
            prepared = self._input_processor.prepare(submit, arrived_at=time.monotonic())
            self.answered[submit.id] = Answered()
            self._output_processor.add(prepared)
            self.batcher.add(prepared.request)

    def cancel(self, request_id: int) -> None:
        self._output_processor.cancel(self.batcher.cancel(request_id), time.monotonic())
        self._collect()

    def step(self) -> None:
        events = self.batcher.step(time.monotonic())
        self._output_processor.process(events, time.monotonic())
        self._collect()

    def finish(self) -> None:
        """Step until nothing is left to do."""
        for _ in range(MAX_STEPS):
            if self.batcher.read_state().is_idle:
                return
            self.step()
        raise AssertionError(f"still busy after {MAX_STEPS} steps")

    def answer(self, *submits: Submit) -> list[Answered]:
        """Add requests together and finish them."""
        self.add(*submits)
        self.finish()
        return [self.answered[submit.id] for submit in submits]

    def answer_one_by_one(self, submits: Iterable[Submit]) -> list[Answered]:
        return [self.answer(submit)[0] for submit in submits]

    def _collect(self) -> None:
        for event in self._output_processor.take_events():
            self.answered[event.id].add(event)
