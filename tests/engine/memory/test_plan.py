"""The plan is a table of facts about who fits, who leaves and who waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.memory.plan import Action, PoolRoom, Resident, plan, room, room_at_best

POOLS = [PoolRoom("cuda0", limit_bytes=100, free_bytes=1000)]


def resident(key: str, size: int, **changes: object) -> Resident:
    fields: dict[str, object] = {"promised": {"cuda0": size}, "untaken": {}}
    return Resident(key=key, name=key, **(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("residents", "need", "action", "leaving"),
    [
        pytest.param([], 100, Action.LOAD, (), id="an empty machine"),
        pytest.param([], 101, Action.IMPOSSIBLE, (), id="more than there is"),
        pytest.param([resident("a", 60)], 40, Action.LOAD, (), id="beside another"),
        pytest.param([resident("a", 60)], 41, Action.EVICT, ("a",), id="an idle one leaves"),
        pytest.param(
            [resident("a", 60, is_busy=True)], 41, Action.WAIT, ("a",), id="a busy one does not"
        ),
        pytest.param(
            [resident("a", 60, is_settling=True)], 41, Action.WAIT, ("a",), id="nor a settling one"
        ),
        pytest.param(
            [resident("a", 60, is_pinned=True)], 41, Action.IMPOSSIBLE, (), id="a pinned one never"
        ),
        pytest.param(
            [resident("a", 60), resident("b", 40)],
            101,
            Action.IMPOSSIBLE,
            (),
            id="nobody leaves for what cannot fit",
        ),
        pytest.param(
            [resident("new", 40, idle_seconds=1), resident("old", 40, idle_seconds=100)],
            30,
            Action.EVICT,
            ("old",),
            id="the longest idle leaves",
        ),
        pytest.param(
            [
                resident("dear", 40, idle_seconds=100, reload_seconds=60),
                resident("cheap", 40, idle_seconds=50, reload_seconds=1),
            ],
            30,
            Action.EVICT,
            ("cheap",),
            id="what is cheap to reload leaves",
        ),
        pytest.param(
            [resident("high", 40, idle_seconds=9, priority=5), resident("normal", 40)],
            30,
            Action.EVICT,
            ("normal",),
            id="priority stays",
        ),
        pytest.param(
            [resident("small", 10, idle_seconds=100), resident("large", 80, idle_seconds=1)],
            60,
            Action.EVICT,
            ("large",),
            id="nobody leaves in vain",
        ),
        pytest.param(
            [resident("idle", 30), resident("busy", 60, is_busy=True)],
            40,
            Action.EVICT,
            ("idle",),
            id="idle ones before busy ones",
        ),
        pytest.param(
            [resident("idle", 30), resident("busy", 60, is_busy=True)],
            50,
            Action.WAIT,
            ("busy",),
            id="an idle one stays when only a busy one's room helps",
        ),
        pytest.param(
            [resident("elsewhere", 60, promised={"host": 60}), resident("here", 70)],
            40,
            Action.EVICT,
            ("here",),
            id="who holds nothing of what is short stays",
        ),
    ],
)
def test_plan(
    residents: list[Resident], need: int, action: Action, leaving: tuple[str, ...]
) -> None:
    decision = plan(residents, {"cuda0": need}, POOLS)

    assert (decision.action, decision.leaving) == (action, leaving)


def test_promised_but_untaken_bytes_are_not_free() -> None:
    pools = [PoolRoom("host", limit_bytes=1000, free_bytes=100)]
    mapped = resident("a", 60, promised={"host": 60}, untaken={"host": 50})

    assert room([mapped], pools) == {"host": 50}
    assert room_at_best([mapped], pools) == {"host": 110}


def test_what_strangers_hold_is_said() -> None:
    decision = plan([], {"cuda0": 80}, [PoolRoom("cuda0", limit_bytes=100, free_bytes=20)])

    assert decision.action is Action.IMPOSSIBLE
    assert "at most 0 MiB can be made free" in decision.why


def test_a_device_that_is_not_there_is_said() -> None:
    assert "cuda1: there is no such device" in plan([], {"cuda1": 8}, POOLS).why


@st.composite
def machines(draw: st.DrawFn) -> tuple[list[Resident], dict[str, int], list[PoolRoom]]:
    names = ("host", "cuda0")
    amounts = st.fixed_dictionaries(dict.fromkeys(names, st.integers(0, 60)))
    residents = [
        resident(
            f"m{n}",
            0,
            promised=draw(amounts),
            is_busy=draw(st.booleans()),
            is_pinned=draw(st.booleans()),
            is_settling=draw(st.booleans()),
            idle_seconds=draw(st.floats(0, 1e6)),
            reload_seconds=draw(st.floats(0.1, 1e3)),
            priority=draw(st.integers(-10, 10)),
        )
        for n in range(draw(st.integers(0, 6)))
    ]
    pools = [PoolRoom(name, draw(st.integers(0, 200)), draw(st.integers(0, 200))) for name in names]
    return residents, draw(amounts), pools


@given(machines())
def test_whoever_leaves_may_leave_makes_room_and_none_of_them_in_vain(
    machine: tuple[list[Resident], dict[str, int], list[PoolRoom]],
) -> None:
    residents, need, pools = machine
    decision = plan(residents, need, pools)
    by_key = {r.key: r for r in residents}
    leaving = [by_key[key] for key in decision.leaving]

    def fits_without(gone: list[Resident]) -> bool:
        stay = [r for r in residents if r not in gone]
        back = {p.name: sum(r.promised[p.name] for r in gone) for p in pools}
        after = [PoolRoom(p.name, p.limit_bytes, p.free_bytes + back[p.name]) for p in pools]
        free = room(stay, after)
        return all(free[name] >= size for name, size in need.items() if size)

    assert not any(r.is_pinned for r in leaving)
    assert (decision.action is Action.LOAD) == fits_without([])
    if decision.action is Action.EVICT:
        assert not any(r.is_busy or r.is_settling for r in leaving)
    if decision.action in (Action.EVICT, Action.WAIT):
        assert fits_without(leaving)
        assert not any(fits_without([r for r in leaving if r is not one]) for one in leaving)
    if decision.action is Action.IMPOSSIBLE:
        assert not fits_without([r for r in residents if not r.is_pinned])
