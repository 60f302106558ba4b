"""Which refusals are reported. Pure: the time is given."""

from __future__ import annotations

from services.api.access.refusal_log import (
    BURST,
    INTERVAL_SECONDS,
    MAX_ADDRESSES,
    RefusalLog,
)


def test_the_first_refusals_are_reported_one_by_one_and_later_ones_together() -> None:
    refusals = RefusalLog("refused")
    first = [refusals.count_to_report("192.0.2.1", 0.0) for _ in range(BURST)]
    flood = [refusals.count_to_report("192.0.2.1", 5.0) for _ in range(1000)]
    later = refusals.count_to_report("192.0.2.1", 5.0 + INTERVAL_SECONDS - 1)

    assert first == [1] * BURST
    assert set(flood) == {0}
    assert later == 1001


def test_a_flood_is_reported_once_per_interval_with_its_count() -> None:
    refusals = RefusalLog("refused")
    counts = [refusals.count_to_report("192.0.2.1", number / 100) for number in range(10_000)]

    assert sum(counts) > 8_000
    assert len([count for count in counts if count]) == BURST + 10_000 / 100 / INTERVAL_SECONDS - 1


def test_a_flood_from_one_address_hides_no_other_address() -> None:
    refusals = RefusalLog("refused")
    for _ in range(1000):
        refusals.count_to_report("192.0.2.1", 0.0)

    assert refusals.count_to_report("192.0.2.2", 0.0) == 1


def test_the_addresses_of_one_ipv6_network_count_together() -> None:
    refusals = RefusalLog("refused")
    counts = [refusals.count_to_report(f"2001:db8::{number:x}", 0.0) for number in range(100)]

    assert sum(counts) == BURST


def test_an_address_starts_over_after_a_quiet_interval() -> None:
    refusals = RefusalLog("refused")
    for _ in range(1000):
        refusals.count_to_report("192.0.2.1", 0.0)

    assert refusals.count_to_report("192.0.2.1", INTERVAL_SECONDS + 1) == 1


def test_the_number_of_remembered_addresses_is_bounded() -> None:
    refusals = RefusalLog("refused")
    for number in range(2 * MAX_ADDRESSES):
        refusals.count_to_report(f"10.0.{number >> 8}.{number & 255}", 0.0)

    assert len(refusals._by_address) == MAX_ADDRESSES
