from __future__ import annotations

import pytest

from services.engine.front.process.openmp import OpenMPWaitPolicy


@pytest.fixture(autouse=True)
def _variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


def test_the_first_runner_may_spin_and_later_ones_beside_it_may_not() -> None:
    policy = OpenMPWaitPolicy()

    environments = [policy.build_environment(runner) for runner in ("first", "second", "third")]

    assert [e.get("GOMP_SPINCOUNT") for e in environments] == [None, "1000", "1000"]


def test_a_dry_run_does_not_take_the_right_to_spin() -> None:
    policy = OpenMPWaitPolicy()

    dry_run = policy.build_environment("dry run", may_spin=False)

    assert dry_run["GOMP_SPINCOUNT"] == "1000"
    assert "GOMP_SPINCOUNT" not in policy.build_environment("runner")


def test_after_the_spinning_runner_has_ended_the_next_one_may_spin() -> None:
    policy = OpenMPWaitPolicy()
    for runner in ("first", "second"):
        policy.build_environment(runner)

    policy.release("second")
    assert policy.build_environment("third").get("GOMP_SPINCOUNT") == "1000"
    policy.release("first")
    assert "GOMP_SPINCOUNT" not in policy.build_environment("fourth")


def test_a_value_that_the_owner_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "42")
    policy = OpenMPWaitPolicy()

    assert [policy.build_environment(n)["GOMP_SPINCOUNT"] for n in ("a", "b")] == ["42", "42"]
