"""Results are kept for a while, and not without limit."""

from __future__ import annotations

import pytest

from services.puller.search import recent_results
from services.puller.search.recent_results import RecentResults


def test_a_result_is_kept_for_its_time() -> None:
    now = [0.0]
    results: RecentResults[str, int] = RecentResults(10.0, clock=lambda: now[0])
    results.put("a", 1)

    now[0] = 10.0
    assert (results.get("a"), results.get("b")) == (1, None)
    now[0] = 10.5
    assert results.get("a") is None


def test_the_oldest_result_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_results, "MAX_RESULTS", 2)
    results: RecentResults[str, int] = RecentResults(10.0)
    for key in ("a", "b", "a", "c"):
        results.put(key, ord(key))

    assert [results.get(key) for key in ("a", "b", "c")] == [97, None, 99]
