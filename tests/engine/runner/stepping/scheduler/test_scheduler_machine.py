"""Any order of requests, cancellations and deadlines: all answers are correct, and all end."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import Lane, MemoryPolicy
from services.engine.runner.stepping.scheduler.request import Request
from services.shared.errors import ContextLengthExceeded, EngineBusy
from tests.engine.runner.stepping.simulation import Simulation, expected, request

_PREFIXES = ["", "s" * 40, "s" * 40 + "t" * 33, "long " * 20]


class Requests(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[int, Request] = {}
        self.next_id = 0

    @initialize(
        cells=st.sampled_from([96, 160, 1024]),
        running=st.integers(1, 5),
        tokens=st.sampled_from([8, 64]),
        policy=st.sampled_from(MemoryPolicy),
        drafts=st.booleans(),
        hidden=st.sampled_from([0, 0, 32]),
        break_even_rows=st.sampled_from([None, 1, 100]),
        cached_sequences=st.sampled_from([0, 2]),
        refuses_load=st.booleans(),
        takes_checkpoints=st.booleans(),
    )
    def begin(
        self,
        cells: int,
        running: int,
        tokens: int,
        policy: MemoryPolicy,
        drafts: bool,
        hidden: int,
        break_even_rows: int | None,
        cached_sequences: int,
        refuses_load: bool,
        takes_checkpoints: bool,
    ) -> None:
        self.simulation = Simulation(
            cells=cells,
            max_sequences=running,
            max_step_tokens=tokens,
            max_queued=12,
            drafts=drafts,
            break_even_rows=break_even_rows,
            behaviour=Behaviour(
                memory_policy=policy,
                cached_sequences=cached_sequences,
                hidden_cells=hidden,
                refuses_load=refuses_load,
                takes_checkpoints=takes_checkpoints,
            ),
        )

    @rule(
        prefix=st.sampled_from(_PREFIXES),
        tail=st.text("xyz", max_size=12),
        tokens=st.integers(1, 60),
        n=st.sampled_from([1, 1, 1, 3]),
        lane=st.sampled_from(Lane),
        principal=st.sampled_from(["alice", "bob"]),
        deadline=st.none() | st.floats(0.0, 0.5),
        is_shareable=st.booleans() | st.just(True),
        wants_prompt_logits=st.sampled_from([False, False, False, True]),
        cuts=st.lists(st.sampled_from([1, 20, 40, 41, 72, 73]), max_size=3, unique=True),
    )
    def add(
        self,
        prefix: str,
        tail: str,
        tokens: int,
        n: int,
        lane: Lane,
        principal: str,
        deadline: float | None,
        is_shareable: bool,
        wants_prompt_logits: bool,
        cuts: list[int],
    ) -> None:
        self.next_id += 1
        prompt = prefix + tail + "!"
        added = request(
            self.next_id,
            prompt,
            tokens,
            n=n,
            lane=lane,
            principal=principal,
            deadline=None if deadline is None else self.simulation.now + deadline,
            is_shareable=is_shareable,
            wants_prompt_logits=wants_prompt_logits,
            cuts=tuple(cut for cut in sorted(cuts) if cut < len(prompt)),
        )
        try:
            self.simulation.add(added)
        except (ContextLengthExceeded, EngineBusy):
            return
        self.requests[added.id] = added

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.simulation.cancel(data.draw(st.sampled_from(sorted(self.requests))))

    @rule(steps=st.integers(1, 12))
    def steps(self, steps: int) -> None:
        for _ in range(steps):
            self.simulation.step()

    @invariant()
    def cells_are_never_oversubscribed(self) -> None:
        if hasattr(self, "simulation"):
            cells = self.simulation.sequence_pool.cells
            assert 0 <= cells.used <= self.simulation.backend.cells

    @invariant()
    def answers_are_beginnings_of_the_solo_answer(self) -> None:
        for id_, wanted in self.requests.items():
            alone = expected(wanted)
            for tokens in self.simulation.answers[id_].values():
                assert tuple(tokens) == alone[: len(tokens)]

    def teardown(self) -> None:
        if not hasattr(self, "simulation"):
            return
        simulation = self.simulation
        simulation.run()
        assert set(simulation.ended) == set(self.requests)
        for id_, how in simulation.ended.items():
            if how == "done":
                alone = expected(self.requests[id_])
                assert set(map(tuple, simulation.answers[id_].values())) == {alone}
        for _ in range(simulation.sequence_pool.cached_count):
            simulation.sequence_pool.evict()
        assert simulation.sequence_pool.cells.used == 0
        assert simulation.sequence_pool._checkpoints._bytes == 0
        simulation.step()
        assert simulation.backend.cells_used == 0


Requests.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestAnyOrder = Requests.TestCase
