"""MLX is preferred only where it runs and is installed."""

from __future__ import annotations

import platform
import sys

import pytest

from services.shared import mlx_support


@pytest.mark.parametrize(
    ("system", "machine", "is_installed", "expected"),
    [
        ("darwin", "arm64", True, True),
        ("darwin", "arm64", False, False),
        ("darwin", "x86_64", True, False),
        ("linux", "arm64", True, False),
    ],
    ids=["apple silicon", "without mlx", "intel", "linux"],
)
def test_mlx_is_preferred_on_apple_silicon_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    machine: str,
    is_installed: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(mlx_support, "find_spec", lambda _: "spec" if is_installed else None)

    assert mlx_support.has_mlx() is is_installed
    assert mlx_support.prefers_mlx() is expected
