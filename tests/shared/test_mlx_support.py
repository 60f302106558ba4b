"""MLX is preferred only where it runs and is installed."""

from __future__ import annotations

import platform
import sys

import pytest

from services.shared import mlx_support


@pytest.mark.parametrize(
    ("system", "machine", "installed", "expected"),
    [
        ("darwin", "arm64", {"mlx_lm", "llama_cpp"}, (True, False, True)),
        ("darwin", "arm64", {"mlx_lm"}, (True, True, True)),
        ("darwin", "arm64", {"llama_cpp"}, (False, False, False)),
        ("darwin", "arm64", set(), (False, False, False)),
        ("darwin", "x86_64", {"mlx_lm", "llama_cpp"}, (True, False, False)),
        ("linux", "arm64", {"mlx_lm", "llama_cpp"}, (True, False, False)),
        ("linux", "x86_64", {"mlx_lm"}, (True, True, True)),
    ],
    ids=["apple silicon", "mlx only", "gguf only", "neither", "intel", "linux", "linux, mlx only"],
)
def test_mlx_is_preferred_where_it_is_the_faster_one_or_the_only_one(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    machine: str,
    installed: set[str],
    expected: tuple[bool, bool, bool],
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(mlx_support, "find_spec", lambda name: name if name in installed else None)

    found = (mlx_support.has_mlx(), mlx_support.has_only_mlx(), mlx_support.prefers_mlx())
    assert found == expected
