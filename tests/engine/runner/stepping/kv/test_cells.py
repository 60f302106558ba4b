from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.engine.runner.stepping.kv.cells import Cells, Run

# (action, which sequence, how many): applied to the sequences that exist
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "grow", "share", "release"]),
        st.integers(0, 20),
        st.integers(1, 9),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_the_counts_equal_those_of_counting_every_cell(actions: list[tuple[str, int, int]]) -> None:
    cells = Cells(10_000)
    leaves: list[Run] = []
    counted: list[list[int]] = []  # the cells that each sequence holds, by name
    names = iter(range(100_000))
    for what, which, count in actions:
        if what == "begin" or not leaves:
            leaves.append(cells.begin())
            counted.append([])
            continue
        place = which % len(leaves)
        held = counted[place]
        if what == "grow":
            leaves[place] = cells.grow(leaves[place], count)
            held += [next(names) for _ in range(count)]
        elif what == "share" and held:
            end = 1 + count % len(held)
            leaves.append(cells.share(leaves[place], end))
            counted.append(held[:end])
        elif what == "release":
            cells.release(leaves.pop(place))
            counted.pop(place)

        assert cells.used == len({name for names_held in counted for name in names_held})
        some = slice(0, len(leaves), 2)
        assert cells.count_held(leaves[some]) == len(
            {name for names_held in counted[some] for name in names_held}
        )


def test_a_shared_prefix_is_counted_once() -> None:
    cells = Cells(100)
    one = cells.grow(cells.begin(), 40)
    other = cells.grow(cells.share(one, 30), 5)

    assert (cells.used, cells.free) == (45, 55)
    assert cells.count_held([other]) == 35


def test_a_prefix_outlives_the_sequence_that_computed_it() -> None:
    cells = Cells(100)
    one = cells.grow(cells.begin(), 40)
    other = cells.share(one, 30)

    cells.release(one)
    assert cells.used == 30
    cells.release(other)
    assert cells.used == 0
