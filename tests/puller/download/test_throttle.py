"""Allowed hours and the shared bandwidth."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import redis

from services.puller.download.throttle import Hours, Throttle
from services.shared.errors import InvalidSettings
from services.shared.redis import redis_keys


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22-7", [22 * 60, 0, 6 * 60 + 59], [7 * 60, 12 * 60, 21 * 60 + 59]),
        ("1:30-2:15", [90, 134], [89, 135, 0]),
        ("0-0", [0, 720, 1439], []),
    ],
)
def test_hours_include_their_start_and_not_their_end(
    text: str, inside: list[int], outside: list[int]
) -> None:
    hours = Hours.parse(text)

    assert all(hours.include(minute) for minute in inside)
    assert not any(hours.include(minute) for minute in outside)


@pytest.mark.parametrize("text", ["", "late", "22", "24-1", "1-60", "22:60-7"])
def test_malformed_hours_are_refused(text: str) -> None:
    with pytest.raises(InvalidSettings):
        Hours.parse(text)


def test_no_second_exceeds_the_budget(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    throttle = Throttle(client, bytes_per_second=1000)
    spent: dict[int, int] = {}

    for _ in range(6):
        throttle.spend(400, threading.Event())
        now = int(time.time())
        spent[now] = spent.get(now, 0) + 400
    counted = [
        int(client.get(redis_keys.pull_bytes(second)) or 0)
        for second in range(min(spent), max(spent) + 1)
    ]
    client.close()

    assert max(counted) <= 1000
    assert len(spent) >= 3


def test_a_halted_download_does_not_wait_for_its_budget(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    throttle = Throttle(client, bytes_per_second=1)
    halted = threading.Event()
    halted.set()

    throttle.spend(100, halted)
    client.close()


class RecordingEvent(threading.Event):
    """Waits for nothing, and remembers for how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        return True


def test_without_redis_each_thread_keeps_the_limit_alone() -> None:
    halt = RecordingEvent()

    client: Any = redis.Redis(unix_socket_path="/nonexistent/redis.sock")
    Throttle(client, bytes_per_second=1000).spend(500, halt)

    assert halt.waited == [0.5]


def test_a_redis_that_fails_while_bytes_are_given_back_stops_no_download(redis_url: str) -> None:
    halt = RecordingEvent()
    with redis.Redis.from_url(redis_url) as admin:
        now = int(time.time())
        for second in range(now, now + 60):  # the budget of each is used up
            admin.set(redis_keys.pull_bytes(second), 1000)
        admin.acl_setuser("half", True, True, keys=["*"], commands=["+@all", "-decrby"])
        with redis.Redis.from_url(redis_url, username="half", password="x") as client:
            Throttle(client, bytes_per_second=1000).spend(600, halt)
        admin.acl_deluser("half")

    assert halt.waited == [0.6]


def test_reads_are_small_enough_for_an_even_flow() -> None:
    assert Throttle().limit_read(1 << 20) == 1 << 20
    assert Throttle(bytes_per_second=80_000).limit_read(1 << 20) == 10_000
    assert Throttle(bytes_per_second=1024).limit_read(1 << 20) == 1024
