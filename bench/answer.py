"""Parse a recording: the arrival time of each text, the usage that the server counted, the error.

Pure. Understands the streams of `/v1/completions` and `/v1/chat/completions`.
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
class StreamedAnswer:
    """The outcome of one request. All times are seconds of one clock."""

    sent_at: float
    ended_at: float | None
    arrival_times: tuple[float, ...]  # of events with text; one event may carry several tokens
    text: str
    prompt_tokens: int
    completion_tokens: int  # as the server counts; the number of events if it does not count
    cached_tokens: int
    error: str | None

    @property
    def has_succeeded(self) -> bool:
        """Whether text arrived and no error occurred."""
        return self.error is None and bool(self.arrival_times)

    @property
    def first_token_seconds(self) -> float | None:
        """Seconds from sending the request to the first text."""
        return self.arrival_times[0] - self.sent_at if self.arrival_times else None

    @property
    def total_seconds(self) -> float | None:
        """Seconds from sending the request to the end of the answer."""
        return None if self.ended_at is None else self.ended_at - self.sent_at

    def gaps(self, *, since: float = -math.inf, until: float = math.inf) -> list[float]:
        """Seconds between arrivals, for the gaps that overlap the span from `since` to `until`.

        Texts of one packet arrive at the same time: a reader notices only the pause before them.
        """
        times = dict.fromkeys(self.arrival_times)
        return [b - a for a, b in pairwise(times) if b >= since and a <= until]


def parse_recording(recording: Recording, *, was_abandoned: bool = False) -> StreamedAnswer:
    """Parse a recording. With `was_abandoned` the client hung up, so a missing end is no error."""
    response = _parse_response(recording.arrivals)
    error = recording.error
    times: list[float] = []
    texts: list[str] = []
    usage: dict[str, Any] = {}
    if response.status == 200:
        for at, message in _parse_messages(response.body):
            error = error or _get_error(message)
            usage = message.get("usage") or usage
            if text := _get_text(message):
                times.append(at)
                texts.append(text)
    elif response.status is not None:
        text = b"".join(data for _, data in response.body)[:200].decode(errors="replace")
        error = error or f"status {response.status}: {text}"
    if error is None and not was_abandoned:
        error = _describe_missing_part(response, times)
    details = usage.get("prompt_tokens_details") or {}
    return StreamedAnswer(
        sent_at=recording.sent_at,
        ended_at=recording.ended_at,
        arrival_times=tuple(times),
        text="".join(texts),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or len(times)),
        cached_tokens=int(details.get("cached_tokens") or 0),
        error=error,
    )


@dataclass(slots=True)
class _Response:
    status: int | None = None
    body: list[tuple[float, bytes]] = field(default_factory=list)
    is_complete: bool = False


def _parse_response(arrivals: Sequence[tuple[float, bytes]]) -> _Response:
    """Parse the HTTP response; each part of its body keeps its arrival time."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    response = _Response()
    end = arrivals[-1][0] if arrivals else 0.0
    try:
        for at, data in [*arrivals, (end, b"")]:  # b"" is the end of the connection for h11
            connection.receive_data(data)
            _take_events(connection, at, response)
            if response.is_complete:
                break
    except h11.RemoteProtocolError:
        pass
    return response


def _take_events(connection: h11.Connection, at: float, response: _Response) -> None:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            response.status = event.status_code
        elif isinstance(event, h11.Data):
            response.body.append((at, bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            response.is_complete = True
            return
        else:
            return


def _describe_missing_part(response: _Response, arrival_times: Sequence[float]) -> str | None:
    if response.status is None:
        return "no HTTP response"
    if not response.is_complete:
        return "the connection closed before the end of the answer"
    return None if arrival_times else "the answer has no text"


def _parse_messages(parts: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield the JSON of each SSE event with the arrival time of its last byte."""
    pending = b""
    for at, data in parts:
        pending += data
        *lines, pending = pending.split(b"\n")
        for line in lines:
            value = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and value.startswith(b"{"):
                yield at, json.loads(value)


def _get_text(message: dict[str, Any]) -> str:
    choices = message.get("choices") or [{}]
    choice = choices[0]
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or ""


def _get_error(message: dict[str, Any]) -> str | None:
    error = message.get("error")
    return None if error is None else f"error: {json.dumps(error)[:200]}"
