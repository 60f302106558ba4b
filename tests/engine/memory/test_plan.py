"""The plan as a table: which models fit, which are evicted, which are waited for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.memory.plan import (
    MLX_RUNNERS,
    ONE_MLX_RUNNER,
    Action,
    PoolCapacity,
    Resident,
    compute_available_bytes,
    compute_max_available_bytes,
    plan,
)

POOLS = [PoolCapacity("cuda0", limit_bytes=100, free_bytes=1000)]


def resident(key: str, size: int, **changes: object) -> Resident:
    fields: dict[str, object] = {"committed": {"cuda0": size}, "unused": {}}
    return Resident(key=key, name=key, **(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("residents", "need", "action", "leaving"),
    [
        pytest.param([], 100, Action.LOAD, (), id="an empty machine"),
        pytest.param([], 101, Action.IMPOSSIBLE, (), id="more than the limit"),
        pytest.param([resident("a", 60)], 40, Action.LOAD, (), id="fits beside another"),
        pytest.param([resident("a", 60)], 41, Action.EVICT, ("a",), id="an idle model is evicted"),
        pytest.param(
            [resident("a", 60, is_busy=True)],
            41,
            Action.WAIT,
            ("a",),
            id="a busy model is waited for",
        ),
        pytest.param(
            [resident("a", 60, is_in_grace=True)],
            41,
            Action.WAIT,
            ("a",),
            id="a model in its grace time is waited for",
        ),
        pytest.param(
            [resident("a", 60, is_pinned=True)],
            41,
            Action.IMPOSSIBLE,
            (),
            id="a pinned model stays",
        ),
        pytest.param(
            [resident("a", 60), resident("b", 40)],
            101,
            Action.IMPOSSIBLE,
            (),
            id="no model is evicted for one that cannot fit",
        ),
        pytest.param(
            [resident("new", 40, idle_seconds=1), resident("old", 40, idle_seconds=100)],
            30,
            Action.EVICT,
            ("old",),
            id="the model that is idle for longest is evicted",
        ),
        pytest.param(
            [
                resident("expensive", 40, idle_seconds=100, reload_seconds=60),
                resident("cheap", 40, idle_seconds=50, reload_seconds=1),
            ],
            30,
            Action.EVICT,
            ("cheap",),
            id="the model that is cheap to reload is evicted",
        ),
        pytest.param(
            [resident("high", 40, idle_seconds=9, priority=5), resident("normal", 40)],
            30,
            Action.EVICT,
            ("normal",),
            id="the model with priority stays",
        ),
        pytest.param(
            [resident("small", 10, idle_seconds=100), resident("large", 80, idle_seconds=1)],
            60,
            Action.EVICT,
            ("large",),
            id="a model whose eviction would not help stays",
        ),
        pytest.param(
            [resident("idle", 30), resident("busy", 60, is_busy=True)],
            40,
            Action.EVICT,
            ("idle",),
            id="idle models before busy ones",
        ),
        pytest.param(
            [resident("idle", 30), resident("busy", 60, is_busy=True)],
            50,
            Action.WAIT,
            ("busy",),
            id="an idle model stays if only a busy one's memory helps",
        ),
        pytest.param(
            [resident("elsewhere", 60, committed={"host": 60}), resident("here", 70)],
            40,
            Action.EVICT,
            ("here",),
            id="a model that holds no memory of the short pool stays",
        ),
    ],
)
def test_the_cheapest_sufficient_decision_is_taken(
    residents: list[Resident], need: int, action: Action, leaving: tuple[str, ...]
) -> None:
    decision = plan(residents, {"cuda0": need}, POOLS)

    assert (decision.action, decision.leaving) == (action, leaving)


def test_committed_but_unused_bytes_are_not_available() -> None:
    pools = [PoolCapacity("host", limit_bytes=1000, free_bytes=100)]
    loading = resident("a", 60, committed={"host": 60}, unused={"host": 50})

    assert compute_available_bytes([loading], pools) == {"host": 50}
    assert compute_max_available_bytes([loading], pools) == {"host": 110}


def test_a_pinned_model_that_is_loading_is_counted_once() -> None:
    """It has taken 40 of its 60 bytes; that the other 20 are still free is not known."""
    pinned = resident(
        "a", 60, unused={"cuda0": 60}, is_pinned=True, is_busy=True, is_transitioning=True
    )
    pools = [PoolCapacity("cuda0", limit_bytes=100, free_bytes=60)]

    assert compute_available_bytes([pinned], pools) == {"cuda0": 0}
    assert compute_max_available_bytes([pinned], pools) == {"cuda0": 40}


def test_the_explanation_counts_the_memory_of_other_processes() -> None:
    decision = plan([], {"cuda0": 80}, [PoolCapacity("cuda0", limit_bytes=100, free_bytes=20)])

    assert (decision.action, decision.leaving) == (Action.WAIT, ())
    assert decision.explanation.startswith("waits for memory that other programs use; cuda0: needs")


def test_the_explanation_names_a_device_that_does_not_exist() -> None:
    assert "cuda1: there is no such device" in plan([], {"cuda1": 8}, POOLS).explanation


@st.composite
def machines(draw: st.DrawFn) -> tuple[list[Resident], dict[str, int], list[PoolCapacity]]:
    names = ("host", "cuda0")
    amounts = st.fixed_dictionaries(dict.fromkeys(names, st.integers(0, 60)))
    residents = [
        resident(
            f"m{n}",
            0,
            committed=draw(amounts),
            is_busy=draw(st.booleans()),
            is_pinned=draw(st.booleans()),
            is_in_grace=draw(st.booleans()),
            idle_seconds=draw(st.floats(0, 1e6)),
            reload_seconds=draw(st.floats(0.1, 1e3)),
            priority=draw(st.integers(-10, 10)),
        )
        for n in range(draw(st.integers(0, 6)))
    ]
    pools = [
        PoolCapacity(name, draw(st.integers(0, 200)), draw(st.integers(0, 200))) for name in names
    ]
    return residents, draw(amounts), pools


@given(machines())
def test_the_models_that_leave_may_leave_suffice_and_are_all_necessary(
    machine: tuple[list[Resident], dict[str, int], list[PoolCapacity]],
) -> None:
    residents, need, pools = machine
    decision = plan(residents, need, pools)
    by_key = {r.key: r for r in residents}
    leaving = [by_key[key] for key in decision.leaving]

    def fits_without(left: list[Resident]) -> bool:
        stay = [r for r in residents if r not in left]
        freed = {p.name: sum(r.committed[p.name] for r in left) for p in pools}
        after = [PoolCapacity(p.name, p.limit_bytes, p.free_bytes + freed[p.name]) for p in pools]
        available = compute_available_bytes(stay, after)
        return all(available[name] >= size for name, size in need.items() if size)

    assert not any(r.is_pinned for r in leaving)
    assert (decision.action is Action.LOAD) == fits_without([])
    if decision.action is Action.EVICT:
        assert not any(r.is_busy or r.is_in_grace for r in leaving)
    if decision.leaving:
        assert fits_without(leaving)
        assert not any(fits_without([r for r in leaving if r is not one]) for one in leaving)
    if decision.action is Action.IMPOSSIBLE or (decision.action is Action.WAIT and not leaving):
        assert not fits_without([r for r in residents if not r.is_pinned])


def test_the_one_mlx_process_is_planned_together_with_memory() -> None:
    gguf = resident("gguf", 50, idle_seconds=100)
    mlx = resident("mlx", 20, committed={"cuda0": 20, MLX_RUNNERS: 1})

    def decide(size: int) -> tuple[str, ...]:
        need = {"cuda0": size, MLX_RUNNERS: 1}
        return plan([gguf, mlx], need, [*POOLS, ONE_MLX_RUNNER]).leaving

    assert decide(50) == ("mlx",)
    assert decide(51) == ("gguf", "mlx")
    assert plan([mlx], {"cuda0": 80}, [*POOLS, ONE_MLX_RUNNER]).action is Action.LOAD
