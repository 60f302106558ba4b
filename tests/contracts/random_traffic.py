"""Requests that share what they can, at random, and what must be true of each of their answers.

Two tenants send prompts that begin alike for random lengths, chats that continue answers, several
answers to one prompt, and requests that share nothing. Some are cancelled on their way. Whatever
that does to the memory of a batcher, each answer is the one that is computed alone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.engine.core import Lane, Stopping
from services.engine.messages.commands import Submit
from services.engine.runner.stepping.step_batcher import StepBatcher
from tests.contracts.batching import MAX_STEPS, BatchRun
from tests.contracts.storing import ALICE, BOB
from tests.contracts.test_batcher import TOP, assert_same
from tests.engine.runner.child_runner import Answered, submit

KEYS = {"alice": ALICE, "bob": BOB}
MAX_AT_ONCE = 9  # requests: more than run at once, and more than the memory holds
LETTERS = "abcdefghijklmnopqrstuvwxyz "


@dataclass
class Traffic:
    """Draws requests whose prompts have less than `max_length` characters."""

    draw: random.Random
    max_length: int
    stems: list[str] = field(default_factory=list)
    chats: list[str] = field(default_factory=list)  # prompts with their answers
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.stems = [self.draw_text(self.draw.randrange(100, self.max_length)) for _ in range(4)]

    def draw_text(self, length: int) -> str:
        return "".join(self.draw.choices(LETTERS, k=length))

    def draw_prompt(self) -> str:
        draw = self.draw
        if self.chats and draw.random() < 0.2:
            begin = draw.choice(self.chats)
        else:
            stem = draw.choice(self.stems)
            begin = stem[: draw.randrange(1, len(stem))]
        tail = self.draw_text(draw.randrange(1, 150)) if draw.random() < 0.7 else ""
        return (begin + tail)[: self.max_length]

    def draw_submit(self) -> Submit:
        draw, prompt = self.draw, self.draw_prompt()
        realm = draw.choice(("alice", "alice", "bob"))
        return submit(
            next(self.ids),
            prompt,
            cuts=tuple(sorted({draw.randrange(1, len(prompt) + 1) for _ in range(3)})),
            stopping=Stopping(max_tokens=draw.choice((1, 2, 5, 12)), ignore_eos=True),
            top_logprobs=TOP,
            n=draw.choice((1, 1, 1, 2)),
            lane=draw.choice(list(Lane)),
            principal=draw.choice("xyz"),
            realm=realm,
            cache_keys=KEYS[realm] if draw.random() < 0.8 else (),
            no_cache=draw.random() < 0.1,
        )

    def remember(self, asked: Submit, answered: Answered) -> None:
        """A later prompt may continue this answer."""
        self.chats = [*self.chats, get_text(asked) + answered.text.get(0, "")][-8:]


@dataclass
class TrafficRun:
    """Sends traffic to one batcher, and compares with what another one answers to each alone."""

    run: BatchRun
    alone: BatchRun
    traffic: Traffic
    kind: str
    pending: dict[int, Submit] = field(default_factory=dict)
    compared: int = 0

    def send(self, count: int) -> None:
        """Send so many requests, and finish them."""
        draw = self.traffic.draw
        for _ in range(MAX_STEPS):
            while count and len(self.pending) < MAX_AT_ONCE and draw.random() < 0.4:
                count -= 1
                asked = self.traffic.draw_submit()
                self.run.add(asked)
                self.pending[asked.id] = asked
            if self.pending and draw.random() < 0.03:
                self.cancel(draw.choice(list(self.pending)))
            if not self.run.batcher.read_state().is_idle:
                self.run.step()
            elif self.pending:
                raise AssertionError(f"idle before the end of {list(self.pending)}")
            elif not count:
                return
            check_memory(self.run)
            self.check_answers()
        raise AssertionError(f"still busy after {MAX_STEPS} steps")

    def cancel(self, id_: int) -> None:
        del self.pending[id_]
        self.run.cancel(id_)

    def check_answers(self) -> None:
        for asked in list(self.pending.values()):
            answered = self.run.answered[asked.id]
            assert answered.failed is None, answered.failed
            if len(answered.finished) == asked.n:
                del self.pending[asked.id]
                self.check(asked, answered)

    def check(self, asked: Submit, answered: Answered) -> None:
        finished = answered.finished[0]
        assert 0 <= finished.disk_tokens <= finished.stored_tokens <= finished.cached_tokens
        assert finished.cached_tokens < finished.prompt_tokens
        assert not (asked.no_cache and finished.cached_tokens)
        wanted = self.alone.answer(
            submit(
                asked.id,
                get_text(asked),
                stopping=asked.stopping,
                top_logprobs=TOP,
                no_cache=True,
            )
        )[0]
        for index in range(asked.n):
            assert_same(answered, wanted, self.kind, index=index)
        self.compared += 1
        self.traffic.remember(asked, answered)


def get_text(asked: Submit) -> str:
    (piece,) = asked.pieces or ()
    return piece.text


def check_memory(run: BatchRun) -> None:
    """The pool of our own batcher knows what its backend holds, and no sequence is lost."""
    if not isinstance(run.batcher, StepBatcher):
        return
    pool, backend = run.batcher._sequence_pool, run.batcher._backend
    sequences = [*pool._busy.values(), *pool._cached.values()]
    ids = [*(sequence.id for sequence in sequences), *pool._free_ids]
    assert sorted(ids) == list(range(backend.sequence_id_count))
    running = run.batcher._scheduler.admission.running
    assert {branch.sequence.id for branch in running if branch.sequence} == set(pool._busy)
    assert pool.cells.used == pool.cells.count_held(sequence.leaf for sequence in sequences)
    if pool._window and not pool._operations:
        for sequence in sequences:
            assert sequence.first == backend.first_position(sequence.id)
