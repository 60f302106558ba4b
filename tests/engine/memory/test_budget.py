from __future__ import annotations

import pytest

from services.engine.memory.budget import Budget, compute_pool_limits, parse_budget
from services.engine.memory.probe import MemoryPool
from services.shared.errors import InvalidSettings

GIB = 1 << 30
HOST = MemoryPool("host", "host", 16 * GIB, 12 * GIB)
GPUS = [
    MemoryPool("cuda0", "cuda", 24 * GIB, 23 * GIB),
    MemoryPool("cuda1", "cuda", 8 * GIB, 8 * GIB),
]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("auto", Budget()),
        (" AUTO ", Budget()),
        ("8G", Budget(size_bytes=8 * GIB)),
        ("8GiB", Budget(size_bytes=8 * GIB)),
        ("8gb", Budget(size_bytes=8 * GIB)),
        ("1.5 G", Budget(size_bytes=3 * GIB // 2)),
        ("512M", Budget(size_bytes=GIB // 2)),
        ("2T", Budget(size_bytes=2048 * GIB)),
        ("4194304", Budget(size_bytes=4 << 20)),
        ("80%", Budget(fraction=0.8)),
        ("100 %", Budget(fraction=1.0)),
    ],
)
def test_a_budget_is_auto_a_share_or_a_size(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lots",
        "-8G",
        "8X",
        "8 Giraffes",
        "0",
        "0%",
        "101%",
        "1e9",
        "8G 8G",
        "8,5G",
        "²G",
        "9" * 400,
    ],
)
def test_any_other_text_is_refused_and_named(text: str) -> None:
    with pytest.raises(InvalidSettings, match="is not a memory budget"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        pytest.param(Budget(size_bytes=8 * GIB), {"host": 8 * GIB}, id="size"),
        pytest.param(Budget(fraction=0.5), {"host": 8 * GIB}, id="share"),
        pytest.param(
            Budget(), {"host": 16 * GIB - 16 * GIB // 10}, id="auto leaves a tenth to the system"
        ),
        pytest.param(Budget(size_bytes=99 * GIB), {"host": 16 * GIB}, id="not above the total"),
    ],
)
def test_without_a_gpu_the_budget_applies_to_main_memory(
    budget: Budget, expected: dict[str, int]
) -> None:
    assert compute_pool_limits(budget, [HOST]) == expected


def test_with_gpus_the_budget_is_divided_among_them_and_main_memory_keeps_its_own_limit() -> None:
    assert compute_pool_limits(Budget(size_bytes=16 * GIB), [HOST, *GPUS]) == {
        "host": 16 * GIB - 16 * GIB // 10,
        "cuda0": 12 * GIB,
        "cuda1": 4 * GIB,
    }
