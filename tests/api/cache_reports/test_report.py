"""The reason why a prompt was computed, for every kind of earlier request."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.cache_reports.fingerprint import Difference, take_fingerprint
from services.api.cache_reports.prefill_rates import PrefillRates
from services.api.cache_reports.report import Asked, PromptUse, find_reason

KEY = b"k" * 32


def make_asked(text: str = "a" * 100, **changes: Any) -> Asked:
    fields: dict[str, Any] = {
        "request_id": "earlier",
        "tenant": b"alice",
        "private_key": b"",
        "model": b"build 1",
        "fingerprint": take_fingerprint((text,), KEY),
        "prompt_tokens": 4000,
    }
    return Asked(**{**fields, **changes})


def make_use(cached: int, total: int = 4000) -> PromptUse:
    return PromptUse(prompt_tokens=total, cached_tokens=cached)


@pytest.mark.parametrize(
    ("before", "use", "reason"),
    [
        (make_asked(), make_use(3999), "found"),
        (None, make_use(3999), "found"),
        (None, make_use(0), "first_request"),
        (None, make_use(3, 7), "first_request"),
        (make_asked(tenant=b"bob"), make_use(0), "other_tenant"),
        (make_asked(private_key=b"x"), make_use(0), "other_private_key"),
        (make_asked(private_key=b"x", prompt_tokens=300), make_use(256), "new_text"),
        (make_asked(model=b"build 2"), make_use(0), "model_changed"),
        (make_asked("b"), make_use(0), "diverged"),
        (make_asked(), make_use(0), "lost"),
        (make_asked(), make_use(2000), "lost"),
        (make_asked(), make_use(3840), "new_text"),  # all whole blocks of it
        (make_asked(prompt_tokens=1000), make_use(990), "new_text"),
        (make_asked(prompt_tokens=20), make_use(0, 20), "new_text"),  # nothing of it is kept
        (make_asked(prompt_tokens=0), make_use(0), "new_text"),
    ],
)
def test_the_first_reason_that_applies_is_given(
    before: Asked | None, use: PromptUse, reason: str
) -> None:
    assert find_reason(make_asked(), before, use, uses_cache=True)[0] == reason


def test_a_request_without_the_cache_has_that_reason_only() -> None:
    assert find_reason(make_asked(), make_asked(), make_use(0), uses_cache=False) == (
        "cache_off",
        None,
    )


def test_what_differs_is_named() -> None:
    before = make_asked("a" * 40 + "b" * 60)

    assert find_reason(make_asked(), before, make_use(0), uses_cache=True) == (
        "diverged",
        Difference("prompt", "differs", 32),
    )
    changed = make_asked(model=b"build 2")
    assert find_reason(make_asked(), changed, make_use(0), uses_cache=True) == (
        "model_changed",
        Difference("model", "differs"),
    )


def test_tokens_in_memory_save_what_the_model_needed_for_the_last_ones_that_it_computed() -> None:
    rates = PrefillRates()
    unknown = rates.estimate_saved("m", make_use(100, 110), 9.0)
    rates.estimate_saved("m", make_use(0, 1000), 2.0)
    live = rates.estimate_saved("m", make_use(1000, 1010), 0.5)
    mixed = PromptUse(prompt_tokens=910, cached_tokens=900, stored_tokens=400, saved_seconds=3.0)

    assert unknown.saved_seconds is None
    assert live.saved_seconds == pytest.approx(2.0)
    assert rates.estimate_saved("m", mixed, 0.5).saved_seconds == pytest.approx(4.0)
    assert rates.estimate_saved("other", mixed, 0.5).saved_seconds is None
