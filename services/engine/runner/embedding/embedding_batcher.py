"""Batch the texts of many requests for one pooled context.

Each `step` is one bounded piece of work: texts of several requests that fit a batch together, or a
part of a longer text. The loop computes one between two steps of the answers, so neither waits for
the other; while there are answers, a batch is as large as the time for it allows, by the speed of
the batches before. Principals get equal numbers of tokens: the one that got the fewest goes next.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from services.engine.backends.pooling import PooledContext, PooledModel, PoolingFacts, Vectors
from services.engine.core import Counters
from services.engine.queue_shares import has_place
from services.shared.errors import EngineBusy, InternalError, SpindllError

logger = logging.getLogger(__name__)

_SECONDS_BESIDE_ANSWERS = 0.05  # as much as prompt work may lengthen a step on a processor
_MIN_TOKENS = 32  # a smaller batch costs almost as much
_MAX_WAITING_TOKENS = 4 << 20  # of one principal; 150 MB of Python's integers
_NOT_FINITE = "the model computes no finite numbers for a text"


@dataclass(slots=True, eq=False)
class EmbeddingRequest:
    """The texts of one request, and the rows that are computed so far.

    `before` and `after` surround each text. They are kept once: a long query is in many pairs.
    """

    id: int
    texts: list[list[int]]  # tokens; with what surrounds it, none is empty
    principal: str = ""  # for fairness
    before: Sequence[int] = ()
    after: Sequence[int] = ()
    rows: list[Vectors | None] = field(default_factory=list)
    next_text: int = 0  # the first that was not begun
    missing: int = 0
    size: int = 0  # tokens of all texts together

    def __post_init__(self) -> None:
        self.rows = [None] * len(self.texts)
        self.missing = len(self.texts)
        self.size = sum(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """The tokens of each text, with what surrounds it."""
        return [self.count_tokens(index) for index in range(len(self.texts))]

    def count_tokens(self, index: int) -> int:
        """The tokens of a text, with what surrounds it."""
        return len(self.before) + len(self.texts[index]) + len(self.after)

    def build_text(self, index: int) -> list[int]:
        """A text, with what surrounds it."""
        return [*self.before, *self.texts[index], *self.after]


class EmbeddingFinished(msgspec.Struct, frozen=True):
    """All rows of a request, in the order of its texts."""

    request: EmbeddingRequest
    rows: Vectors


class EmbeddingFailed(msgspec.Struct, frozen=True):
    """The whole request has ended with an error."""

    request: EmbeddingRequest
    error: SpindllError


EmbeddingEvent = EmbeddingFinished | EmbeddingFailed


@dataclass(slots=True, eq=False)
class _Text:
    """One text of the present batch, or the one that is computed in parts."""

    request: EmbeddingRequest
    index: int
    done: int = 0  # tokens computed

    @property
    def tokens(self) -> list[int]:
        return self.request.build_text(self.index)


class EmbeddingBatcher:
    """See the module. On the thread that opened the backend."""

    def __init__(
        self,
        model: PooledModel,
        counters: Counters,
        *,
        max_queued: int,
        on_opened: Callable[[PooledContext], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_opened` is called when the first request has created the context.

        Counts texts, tokens and the time of computing in `counters`.
        """
        self.failed_steps = 0  # in a row
        self._model = model
        self._facts: PoolingFacts = model.facts
        self._counters = counters
        self._max_queued = max_queued
        self._on_opened = on_opened
        self._clock = clock
        self._token_seconds = 0.0  # of the last batch
        self._waiting: dict[str, deque[EmbeddingRequest]] = {}  # by principal; none is empty
        self._served: dict[str, int] = {}  # tokens, of those that wait
        self._requests: dict[int, EmbeddingRequest] = {}
        self._partial: _Text | None = None
        self._alone: deque[_Text] = deque()  # to be computed in a batch of their own

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until a request is added."""
        return not self._requests

    @property
    def queued(self) -> int:
        """The requests that have not ended."""
        return len(self._requests)

    @property
    def ids(self) -> list[int]:
        """The requests that have not ended."""
        return list(self._requests)

    def add(self, request: EmbeddingRequest) -> None:
        """Queue a request. Raises EngineBusy."""
        waiting = (other.principal for other in self._requests.values())
        if not has_place(request.principal, 1, waiting, limit=self._max_queued):
            raise EngineBusy("too many requests are waiting already, try again later")
        self._check_waiting_tokens(request)
        self._requests[request.id] = request
        if request.principal not in self._waiting:
            # One that was idle has saved up nothing.
            self._served[request.principal] = min(self._served.values(), default=0)
        self._waiting.setdefault(request.principal, deque()).append(request)

    def cancel(self, request_id: int) -> None:
        """Forget a request. An unknown id is fine."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        if self._partial is not None and self._partial.request is request:
            self._partial = None
        self._alone = deque(text for text in self._alone if text.request is not request)
        self._remove_waiting(request)

    def step(self, *, is_alone: bool = True) -> list[EmbeddingEvent]:
        """Compute one batch, and return the requests that it ended. Only while it is not idle.

        `is_alone`: no answer waits for the end of the batch.
        """
        try:
            context = self._open()
        except SpindllError as error:
            return self._fail_all(error)
        room = self._facts.batch_tokens if is_alone else self._find_room()
        batch = self._take_batch(room)
        before, began = self._counters.embedded_tokens, self._clock()
        try:
            rows = self._compute(context, batch, room)
        except Exception:
            logger.exception("embedding failed", extra={"texts": len(batch)})
            self.failed_steps += 1
            failed = {text.request.id: text.request for text in batch}
            reason = InternalError("internal error")
            return [self._fail(request, reason) for request in failed.values()]
        seconds = self._clock() - began
        self._counters.decode_seconds += seconds
        self._token_seconds = seconds / (self._counters.embedded_tokens - before)
        self.failed_steps = 0
        return [] if rows is None else list(self._store(batch, rows))

    def _check_waiting_tokens(self, request: EmbeddingRequest) -> None:
        """EngineBusy for more texts than are kept of one principal; one request alone is fine."""
        waiting = sum(
            other.size for other in self._requests.values() if other.principal == request.principal
        )
        if waiting and waiting + request.size > _MAX_WAITING_TOKENS:
            raise EngineBusy("too many texts are waiting already, try again later")

    def _open(self) -> PooledContext:
        was_open = self._model.is_open
        context = self._model.open()
        if not was_open:
            self._on_opened(context)
        return context

    def _find_room(self) -> int:
        """The tokens of a batch that answers wait for."""
        most = self._facts.batch_tokens
        if self._token_seconds <= 0:
            return min(_MIN_TOKENS, most)
        fitting = int(_SECONDS_BESIDE_ANSWERS / self._token_seconds)
        return min(max(fitting, _MIN_TOKENS), most)

    def _take_batch(self, room: int) -> list[_Text]:
        partial, self._partial = self._partial, None
        if partial is not None:
            return [partial]
        return [self._alone.popleft()] if self._alone else list(self._take_waiting(room))

    def _take_waiting(self, room: int) -> Iterator[_Text]:
        """The next texts, fair between principals: as many as fit, or one that is longer."""
        count = 0
        while self._waiting and count < self._facts.max_texts:
            principal = min(self._waiting, key=lambda name: self._served[name])
            request = self._waiting[principal][0]
            length = request.count_tokens(request.next_text)
            if count and length > room:
                return
            room, count = room - length, count + 1
            yield _Text(request, request.next_text)
            request.next_text += 1
            self._served[principal] += length
            if request.next_text == len(request.texts):
                self._remove_waiting(request)

    def _compute(self, context: PooledContext, batch: list[_Text], room: int) -> Vectors | None:
        """The rows of a batch; None where a long text has more parts."""
        first = batch[0]
        if first.done == 0:
            context.clear()
        if len(batch) > 1 or not self._facts.takes_parts:
            texts = [text.tokens for text in batch]
            rows = context.run(texts)
            self._counters.embedded_tokens += sum(map(len, texts))
            return rows
        tokens = first.tokens
        end = min(first.done + room, len(tokens))
        rows = context.run([tokens[first.done : end]])
        self._counters.embedded_tokens += end - first.done
        first.done = end
        if end == len(tokens):
            return rows
        self._partial = first
        return None

    def _store(self, batch: list[_Text], rows: Vectors) -> Iterator[EmbeddingEvent]:
        """Keep the rows, and return the requests that are complete, or failed.

        A row that is not finite fails its request only. Sums over a whole batch multiply the numbers
        of other texts by zero, which is no zero for those: so all such texts are tried again alone.
        """
        for text, row in zip(batch, rows, strict=True):
            request = text.request
            if not np.isfinite(row).all():
                if len(batch) > 1:
                    self._alone.append(_Text(request, text.index))
                else:
                    yield self._fail(request, InternalError(_NOT_FINITE))
                continue
            self._counters.embedded_texts += 1
            request.rows[text.index] = row
            request.missing -= 1
            if not request.missing:
                del self._requests[request.id]
                yield EmbeddingFinished(
                    request, np.stack([row for row in request.rows if row is not None])
                )

    def _fail(self, request: EmbeddingRequest, error: SpindllError) -> EmbeddingFailed:
        self.cancel(request.id)
        return EmbeddingFailed(request, error)

    def _fail_all(self, error: SpindllError) -> list[EmbeddingEvent]:
        return [self._fail(request, error) for request in list(self._requests.values())]

    def _remove_waiting(self, request: EmbeddingRequest) -> None:
        waiting = self._waiting.get(request.principal, deque())
        if request in waiting:
            waiting.remove(request)
            if not waiting:
                del self._waiting[request.principal], self._served[request.principal]
