"""The lock files agree: an image installs what the tests ran with, on every Python."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

SUBSETS = ("api", "engine", "puller", "local")


def read_pins(name: str) -> dict[str, set[str]]:
    """The lines `name==version ; marker` of a lock file by the name of the package."""
    pins: dict[str, set[str]] = {}
    for line in (ROOT / "locks" / f"{name}.lock").read_text().splitlines():
        if match := re.match(r"([a-z0-9._-]+)==[^\\]*", line):
            pins.setdefault(match[1], set()).add(match[0].strip())
    return pins


@pytest.mark.parametrize("name", SUBSETS)
def test_a_subset_pins_a_package_as_the_whole_does(name: str) -> None:
    whole, subset = read_pins("dev"), read_pins(name)

    assert {package: pins for package, pins in subset.items() if whole[package] != pins} == {}
