"""Run a batcher without a loop around it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from services.engine.messages.commands import Submit
from services.engine.runner.batcher import Batcher
from services.engine.runner.build import build_input_processor
from services.engine.runner.requests.input_processor import InputProcessor
from services.engine.runner.requests.output_processor import OutputProcessor
from tests.engine.runner.child_runner import Answered

MAX_STEPS = 5000


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
        began_at = time.monotonic()
        events = self.batcher.step(began_at)
        self._output_processor.process(events, began_at=began_at, ended_at=time.monotonic())
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
