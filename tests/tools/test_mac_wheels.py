"""Which locked packages a Mac needs. What the index has is asked by a slow test."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tools import mac_wheels

LOCK = """\
one==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
metal==2 ; platform_machine == 'arm64' and sys_platform == 'darwin' \\
    --hash=sha256:cc
cpu==2 ; sys_platform == 'linux' \\
    --hash=sha256:dd
number==1 ; python_full_version < '3.12' \\
    --hash=sha256:ee
number==2 ; python_full_version >= '3.12' \\
    --hash=sha256:ff
"""


def test_the_markers_are_those_of_a_mac() -> None:
    assert mac_wheels.select_for_mac(LOCK, "3.12") == [
        "one==1.0 --hash=sha256:aa --hash=sha256:bb",
        "metal==2 --hash=sha256:cc",
        "number==2 --hash=sha256:ff",
    ]


@pytest.mark.parametrize("python", mac_wheels.PYTHONS)
def test_a_mac_gets_metal_and_no_build_for_other_systems(python: str) -> None:
    lock = (ROOT / "locks" / "mlx.lock").read_text()
    names = {entry.split("==")[0] for entry in mac_wheels.select_for_mac(lock, python)}

    assert {"mlx", "mlx-metal", "mlx-lm"} <= names
    assert names & {"mlx-cpu", "llama-cpp-python"} == set()


@pytest.mark.slow
def test_every_package_of_a_mac_has_a_wheel() -> None:
    assert mac_wheels.main(mac_wheels.PYTHONS) == 0
