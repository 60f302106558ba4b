"""Which answers of a source say that it is busy, and how long it asks to wait."""

from __future__ import annotations

import pytest

from services.puller.transport.busy import find_busy_error, find_wait_seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "9999"}, 300.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 300.0),
        ({"ratelimit": '"resolvers";r=0;t=287'}, 287.0),
        ({"ratelimit": '"api";r=12;t=55'}, None),
        ({}, None),
    ],
    ids=["seconds", "too many", "a date", "the hub's window", "requests left", "nothing"],
)
def test_a_busy_source_says_how_long_to_wait(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert find_wait_seconds(headers.get, max_seconds=300.0) == seconds


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_source_is_asked_again_when_it_says(status: int) -> None:
    error = find_busy_error("the hub", status, {"retry-after": "7"}.get)

    assert error is not None
    assert (error.message, error.retry_after_seconds) == (f"the hub answered HTTP {status}", 7.0)


@pytest.mark.parametrize("status", [200, 206, 401, 404])
def test_other_answers_are_final(status: int) -> None:
    assert find_busy_error("the hub", status, {"retry-after": "7"}.get) is None
