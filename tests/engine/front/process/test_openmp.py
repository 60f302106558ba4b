from __future__ import annotations

import pytest

from services.engine.front.process.openmp import Spinning


@pytest.fixture(autouse=True)
def _no_word_of_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


def test_the_first_may_spin_and_those_beside_it_may_not() -> None:
    spinning = Spinning()

    environments = [spinning.environment(runner) for runner in ("first", "second", "third")]

    assert [e.get("GOMP_SPINCOUNT") for e in environments] == [None, "1000", "1000"]


def test_the_right_is_free_again_when_its_holder_ended() -> None:
    spinning = Spinning()
    for runner in ("first", "second"):
        spinning.environment(runner)

    spinning.ended("second")
    assert spinning.environment("third").get("GOMP_SPINCOUNT") == "1000"
    spinning.ended("first")
    assert "GOMP_SPINCOUNT" not in spinning.environment("fourth")


def test_the_owners_word_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "42")
    spinning = Spinning()

    assert [spinning.environment(n)["GOMP_SPINCOUNT"] for n in ("a", "b")] == ["42", "42"]
