"""How much memory request bodies may take."""

from __future__ import annotations

import contextlib
import json

import pytest

from services.api.parse_budget import MAX_PARSED_BYTES, ParseBudget, estimate_parsed_bytes
from services.shared.errors import Unavailable


def test_commas_in_texts_do_not_count() -> None:
    text = 'well, yes, no, [maybe], {perhaps}: \\" , ' * 20_000
    raw = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()

    assert estimate_parsed_bytes(raw) < 2.1 * len(raw)


@pytest.mark.parametrize("item", ["[]", "{}", '""', "1", '{"a":1}', '"a":1'])
def test_a_small_body_with_many_values_counts_as_a_large_one(item: str) -> None:
    items = ",".join([item] * 700_000)
    raw = (f"{{{items}}}" if item.startswith('"a"') else f"[{items}]").encode()

    assert len(raw) < MAX_PARSED_BYTES / 9
    assert estimate_parsed_bytes(raw) > MAX_PARSED_BYTES


def test_a_text_beyond_latin_1_counts_with_the_four_bytes_that_python_stores() -> None:
    assert estimate_parsed_bytes('["\U0001f600"]'.encode()) > 4 * len('["\U0001f600"]')
    assert estimate_parsed_bytes(b'["\\ud83d\\ude00"]') > 4 * len(b'["\\ud83d\\ude00"]')


def test_bodies_share_the_budget_and_give_it_back() -> None:
    budget = ParseBudget(90)
    with budget.lease("a") as first, budget.lease("b") as second:
        first.resize(50)
        with pytest.raises(Unavailable):
            second.resize(41)
        second.resize(20)
    with budget.lease("c") as third:
        third.resize(60)
        third.resize(10)
        with budget.lease("d") as fourth:
            fourth.resize(50)


def test_the_largest_body_passes_while_there_is_no_other() -> None:
    with ParseBudget().lease("a") as lease:
        lease.resize(MAX_PARSED_BYTES)


def test_the_bodies_of_one_principal_leave_room_for_those_of_others() -> None:
    budget = ParseBudget(9000)
    with contextlib.ExitStack() as stack:
        for principal in ("a", "b", "c"):
            with contextlib.suppress(Unavailable):
                while True:
                    stack.enter_context(budget.lease(principal)).resize(100)
        for lease in (stack.enter_context(budget.lease("d")) for _ in range(2)):
            lease.resize(100)
