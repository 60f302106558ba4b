"""Which wrong keys are reported. Pure: the time is given."""

from __future__ import annotations

from services.api.access.failed_keys import (
    BURST,
    INTERVAL_SECONDS,
    MAX_ADDRESSES,
    FailedKeys,
)


def test_the_first_failures_are_reported_one_by_one_and_later_ones_together() -> None:
    failed = FailedKeys()
    first = [failed.count_to_report("192.0.2.1", 0.0) for _ in range(BURST)]
    flood = [failed.count_to_report("192.0.2.1", 5.0) for _ in range(1000)]
    later = failed.count_to_report("192.0.2.1", 5.0 + INTERVAL_SECONDS - 1)

    assert first == [1] * BURST
    assert set(flood) == {0}
    assert later == 1001


def test_a_flood_is_reported_once_per_interval_with_its_count() -> None:
    failed = FailedKeys()
    counts = [failed.count_to_report("192.0.2.1", number / 100) for number in range(10_000)]

    assert sum(counts) > 8_000
    assert len([count for count in counts if count]) == BURST + 10_000 / 100 / INTERVAL_SECONDS - 1


def test_a_flood_from_one_address_hides_no_other_address() -> None:
    failed = FailedKeys()
    for _ in range(1000):
        failed.count_to_report("192.0.2.1", 0.0)

    assert failed.count_to_report("192.0.2.2", 0.0) == 1


def test_the_addresses_of_one_ipv6_network_count_together() -> None:
    failed = FailedKeys()
    counts = [failed.count_to_report(f"2001:db8::{number:x}", 0.0) for number in range(100)]

    assert sum(counts) == BURST


def test_an_address_starts_over_after_a_quiet_interval() -> None:
    failed = FailedKeys()
    for _ in range(1000):
        failed.count_to_report("192.0.2.1", 0.0)

    assert failed.count_to_report("192.0.2.1", INTERVAL_SECONDS + 1) == 1


def test_the_number_of_remembered_addresses_is_bounded() -> None:
    failed = FailedKeys()
    for number in range(2 * MAX_ADDRESSES):
        failed.count_to_report(f"10.0.{number >> 8}.{number & 255}", 0.0)

    assert len(failed._by_address) == MAX_ADDRESSES
