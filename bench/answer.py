"""Read a recording: which tokens came when, what the server says it counted, what went wrong.

Pure. Knows the streams of `/v1/completions` and `/v1/chat/completions`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import h11

from bench.wire import Recording


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's outcome. Times are seconds of one clock; events are those that bear text."""

    sent_at: float
    ended_at: float | None
    events: tuple[float, ...]  # arrivals; a server may put several tokens into one
    text: str
    prompt_tokens: int
    completion_tokens: int  # as the server counts; the number of events where it does not
    cached_tokens: int
    problem: str | None

    @property
    def is_good(self) -> bool:
        """It streamed text to its end."""
        return self.problem is None and bool(self.events)

    @property
    def first_token_seconds(self) -> float | None:
        """From sending the request to its first text."""
        return self.events[0] - self.sent_at if self.events else None

    @property
    def total_seconds(self) -> float | None:
        """From sending the request to its end."""
        return None if self.ended_at is None else self.ended_at - self.sent_at

    def gaps(self, *, since: float = -math.inf, until: float = math.inf) -> list[float]:
        """Seconds between arrivals; of those gaps that touch the span.

        Texts that came in one packet arrived together: what a person sees is the pause before.
        """
        return [b - a for a, b in pairwise(dict.fromkeys(self.events)) if b >= since and a <= until]


def read(recording: Recording, *, was_left: bool = False) -> Answer:
    """Understand a recording. `was_left`: we hung up on purpose, so having no end is fine."""
    reply = _reply(recording.arrivals)
    problem = recording.problem
    events: list[float] = []
    texts: list[str] = []
    usage: dict[str, Any] = {}
    if reply.status == 200:
        for at, message in _messages(reply.body):
            problem = problem or _error_of(message)
            usage = message.get("usage") or usage
            if text := _text_of(message):
                events.append(at)
                texts.append(text)
    elif reply.status is not None:
        text = b"".join(data for _, data in reply.body)[:200].decode(errors="replace")
        problem = problem or f"status {reply.status}: {text}"
    if problem is None and not was_left:
        problem = _missing(reply, events)
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        sent_at=recording.sent_at,
        ended_at=recording.ended_at,
        events=tuple(events),
        text="".join(texts),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or len(events)),
        cached_tokens=int(details.get("cached_tokens") or 0),
        problem=problem,
    )


@dataclass(slots=True)
class _Reply:
    status: int | None = None
    body: list[tuple[float, bytes]] = field(default_factory=list)
    is_whole: bool = False


def _reply(arrivals: Sequence[tuple[float, bytes]]) -> _Reply:
    """The HTTP response, its body's parts with their times."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    reply = _Reply()
    end = arrivals[-1][0] if arrivals else 0.0
    try:
        for at, data in [*arrivals, (end, b"")]:  # nothing more: h11 then says what is missing
            connection.receive_data(data)
            _take_events(connection, at, reply)
            if reply.is_whole:
                break
    except h11.RemoteProtocolError:
        pass
    return reply


def _take_events(connection: h11.Connection, at: float, reply: _Reply) -> None:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            reply.status = event.status_code
        elif isinstance(event, h11.Data):
            reply.body.append((at, bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            reply.is_whole = True
            return
        else:
            return


def _missing(reply: _Reply, events: Sequence[float]) -> str | None:
    if reply.status is None:
        return "no HTTP response"
    if not reply.is_whole:
        return "the connection closed before the answer's end"
    return None if events else "the answer has no text"


def _messages(parts: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Each SSE event's JSON, with the time its last byte came."""
    pending = b""
    for at, data in parts:
        pending += data
        *lines, pending = pending.split(b"\n")
        for line in lines:
            value = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and value.startswith(b"{"):
                yield at, json.loads(value)


def _text_of(message: dict[str, Any]) -> str:
    choices = message.get("choices") or [{}]
    choice = choices[0]
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or ""


def _error_of(message: dict[str, Any]) -> str | None:
    error = message.get("error")
    return None if error is None else f"error: {json.dumps(error)[:200]}"
