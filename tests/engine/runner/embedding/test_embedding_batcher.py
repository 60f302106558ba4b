"""Which texts are computed together, in which order, and what happens to failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from services.engine.backends.errors import BackendError
from services.engine.backends.pooling import PoolingFacts, Vectors
from services.engine.core import Counters
from services.engine.runner.embedding.embedding_batcher import (
    EmbeddingBatcher,
    EmbeddingEvent,
    EmbeddingFailed,
    EmbeddingFinished,
    EmbeddingRequest,
)
from services.shared.errors import EngineBusy, InsufficientMemory

NOT_FINITE = 13


class SummingModel:
    """The row of a text is the sum of its tokens and their number. It records what it computes.

    The token NOT_FINITE spoils all rows of its batch, as in an encoder.
    """

    def __init__(self, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "pooling": "last",
            "dimensions": 2,
            "max_tokens": 100,
            "batch_tokens": 10,
            "max_texts": 4,
            "takes_parts": True,
        }
        self.facts = PoolingFacts(**fields | changes)
        self.is_open = False
        self.pool_bytes: Mapping[str, int] = {"host": 1}
        self.batches: list[list[int]] = []  # the lengths of the parts of each
        self.error: Exception | None = None
        self.now = 0.0  # in seconds: a token takes a millisecond
        self._texts: dict[int, list[int]] = {}

    def open(self) -> SummingModel:
        if isinstance(self.error, InsufficientMemory):
            raise self.error
        self.is_open = True
        return self

    def run(self, parts: Sequence[Sequence[int]]) -> Vectors:
        if self.error is not None:
            raise self.error
        self.batches.append([len(part) for part in parts])
        self.now += 0.001 * sum(self.batches[-1])
        for number, part in enumerate(parts):
            self._texts.setdefault(number, []).extend(part)
        rows = [(sum(self._texts[n]), len(self._texts[n])) for n in range(len(parts))]
        spoils = any(NOT_FINITE in part for part in parts)
        return np.array(rows, np.float32) * (np.nan if spoils else 1)

    def clear(self) -> None:
        self._texts.clear()


def make(
    model: SummingModel, *requests: tuple[int, list[int], str], max_queued: int = 9
) -> EmbeddingBatcher:
    """A batcher with requests: an id, the lengths of its texts, a principal."""
    batcher = EmbeddingBatcher(model, Counters(), max_queued=max_queued)
    for id_, lengths, principal in requests:
        batcher.add(request(id_, lengths, principal))
    return batcher


def request(id_: int, lengths: list[int], principal: str = "") -> EmbeddingRequest:
    return EmbeddingRequest(id_, [[id_] * length for length in lengths], principal)


def run(batcher: EmbeddingBatcher) -> list[EmbeddingEvent]:
    events: list[EmbeddingEvent] = []
    while not batcher.is_idle:
        events += batcher.step()
    return events


def test_texts_of_several_requests_are_computed_together_while_they_fit() -> None:
    model = SummingModel()
    events = run(make(model, (1, [3, 4], "a"), (2, [2, 5], "a")))

    assert model.batches == [[3, 4, 2], [5]]
    done = [event for event in events if isinstance(event, EmbeddingFinished)]
    assert [(event.request.id, event.rows.tolist()) for event in done] == [
        (1, [[3, 3], [4, 4]]),
        (2, [[4, 2], [10, 5]]),
    ]


def test_a_batch_has_at_most_the_texts_that_the_context_has_sequences_for() -> None:
    model = SummingModel()
    run(make(model, (1, [1] * 9, "a")))

    assert model.batches == [[1, 1, 1, 1], [1, 1, 1, 1], [1]]


def test_a_long_text_is_computed_in_parts_and_has_the_row_of_the_whole() -> None:
    model = SummingModel()
    (event,) = run(make(model, (1, [25], "a")))

    assert model.batches == [[10], [10], [5]]
    assert isinstance(event, EmbeddingFinished)
    assert event.rows.tolist() == [[25, 25]]


def test_a_long_text_is_computed_at_once_where_parts_have_no_meaning() -> None:
    model = SummingModel(takes_parts=False)
    run(make(model, (1, [25], "a"), (2, [1, 1], "a")))

    assert model.batches == [[25], [1, 1]]


def test_beside_answers_a_batch_is_as_large_as_its_time_allows() -> None:
    """The first one is small; at a millisecond for a token, 50 tokens then take 50 ms."""
    model = SummingModel(batch_tokens=512, max_tokens=1000)
    batcher = EmbeddingBatcher(model, Counters(), max_queued=9, clock=lambda: model.now)
    batcher.add(request(1, [400]))
    for _ in range(3):
        batcher.step(is_alone=False)
    batcher.step(is_alone=True)

    assert model.batches == [[32], [50], [50], [268]]


def test_principals_get_equal_numbers_of_tokens() -> None:
    model = SummingModel(batch_tokens=4)
    batcher = make(model, (1, [4] * 20, "many"), (2, [4, 4], "few"))
    done: list[int] = []
    while not batcher.is_idle:
        done += [event.request.id for event in batcher.step()]

    assert done == [2, 1]
    assert len(model.batches) == 22


def test_one_that_was_idle_has_saved_up_nothing() -> None:
    model = SummingModel(batch_tokens=4)
    batcher = make(model, (1, [4] * 20, "many"))
    for _ in range(10):
        batcher.step()
    batcher.add(request(2, [4] * 20, "late"))
    ends = [event.request.id for event in run(batcher)]

    assert ends == [1, 2]


def test_a_cancelled_request_is_computed_no_further() -> None:
    model = SummingModel()
    batcher = make(model, (1, [25], "a"), (2, [3], "a"))
    batcher.step()
    batcher.cancel(1)
    events = run(batcher)

    assert [event.request.id for event in events] == [2]
    assert model.batches == [[10], [3]]
    batcher.cancel(1)


def test_a_failed_batch_fails_its_requests_only() -> None:
    model = SummingModel()
    batcher = make(model, (1, [9], "a"), (2, [9], "a"))
    model.error = BackendError("broken")
    (failed,) = batcher.step()
    assert batcher.failed_steps == 1
    model.error = None
    (done,) = run(batcher)

    assert isinstance(failed, EmbeddingFailed)
    assert (failed.request.id, failed.error.code) == (1, "internal_error")
    assert (done.request.id, batcher.failed_steps) == (2, 0)


def test_a_text_without_finite_numbers_fails_its_request_only() -> None:
    """And is not a failed step, three of which end the process."""
    model = SummingModel()
    batcher = make(model, (1, [3], "a"), (NOT_FINITE, [1, 1], "a"), (2, [2, 2, 2], "b"))
    events = run(batcher)

    failed = [event for event in events if isinstance(event, EmbeddingFailed)]
    assert [(event.request.id, event.error.message) for event in failed] == [
        (NOT_FINITE, "the model computes no finite numbers for a text")
    ]
    done = {e.request.id: e.rows.tolist() for e in events if isinstance(e, EmbeddingFinished)}
    assert done == {1: [[3, 3]], 2: [[4, 2]] * 3}
    assert batcher.failed_steps == 0


def test_a_cancelled_request_is_not_tried_alone() -> None:
    model = SummingModel()
    batcher = make(model, (1, [1], "a"), (NOT_FINITE, [2], "a"))
    batcher.step()
    batcher.cancel(NOT_FINITE)
    run(batcher)

    assert model.batches == [[1, 2], [1]]


def test_a_context_that_does_not_fit_memory_fails_the_requests_with_that_reason() -> None:
    model = SummingModel()
    model.error = InsufficientMemory("not enough memory")
    events = run(make(model, (1, [9], "a"), (2, [9], "b")))

    assert [event.error.code for event in events if isinstance(event, EmbeddingFailed)] == [
        "insufficient_memory"
    ] * 2


def test_too_many_requests_are_refused() -> None:
    batcher = make(SummingModel(), (1, [1], "a"), max_queued=1)

    with pytest.raises(EngineBusy):
        batcher.add(request(2, [1]))


def test_texts_of_one_principal_take_no_place_of_another() -> None:
    batcher = make(SummingModel(), (1, [1], "many"), (2, [1], "many"), max_queued=2)

    batcher.add(request(3, [1], "few"))

    with pytest.raises(EngineBusy):
        batcher.add(request(4, [1], "many"))


def test_the_texts_that_wait_are_bounded_for_each_principal() -> None:
    """A query of a few kilobytes with many documents is millions of tokens."""
    ranking = EmbeddingRequest(1, [[0]] * 2048, "a", before=[0] * 8190, after=[0])
    batcher = EmbeddingBatcher(SummingModel(), Counters(), max_queued=9)
    batcher.add(ranking)
    batcher.add(request(2, [1], "b"))

    with pytest.raises(EngineBusy, match="too many texts"):
        batcher.add(request(3, [1], "a"))


def test_what_surrounds_texts_is_computed_with_each() -> None:
    model = SummingModel()
    batcher = EmbeddingBatcher(model, Counters(), max_queued=9)
    ranking = EmbeddingRequest(1, [[5], [], [6] * 9], before=[1, 2], after=[3])
    batcher.add(ranking)
    (event,) = run(batcher)

    assert ranking.lengths == [4, 3, 12]
    assert model.batches == [[4, 3], [10], [2]]
    assert isinstance(event, EmbeddingFinished)
    assert event.rows.tolist() == [[11, 4], [6, 3], [60, 12]]


def test_the_counters_have_texts_and_tokens() -> None:
    counters = Counters()
    batcher = EmbeddingBatcher(SummingModel(), counters, max_queued=9)
    batcher.add(request(1, [25, 3]))
    run(batcher)

    assert (counters.embedded_texts, counters.embedded_tokens) == (2, 28)
