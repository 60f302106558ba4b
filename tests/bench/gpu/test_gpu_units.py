"""Choosing some of the cases to measure."""

from __future__ import annotations

import pytest

from bench.gpu.units import Unit, select_units

UNITS = [
    Unit("device", {}, False),
    Unit("steps", {"kv_mode": "split", "tokens": 1024, "flash_attention": True}, False),
    Unit("steps", {"kv_mode": "split", "tokens": 4096, "flash_attention": False}, False),
    Unit("steps", {"kv_mode": "unified", "tokens": 1024, "flash_attention": True}, False),
]


def test_units_that_lack_the_field_stay() -> None:
    assert select_units(UNITS, ["kv_mode=split"]) == UNITS[:3]


def test_all_conditions_hold() -> None:
    assert select_units(UNITS, ["kv_mode=split", "flash_attention=True"]) == UNITS[:2]


@pytest.mark.parametrize("condition", ["kv_mode=paged", "kv_mode", "mode=split"])
def test_a_condition_that_no_unit_meets_is_refused(condition: str) -> None:
    with pytest.raises(ValueError, match=f"no case has '{condition}'"):
        select_units(UNITS, [condition])
