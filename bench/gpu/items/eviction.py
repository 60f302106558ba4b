"""Two models by turns in memory for one, and whether the memory comes back in the end."""

from __future__ import annotations

from bench.gpu.devices import open_probe
from bench.gpu.measuring import Case, Measuring, Relabelled
from bench.gpu.scale import Scale
from bench.scenarios import swap
from services.engine.core import HOST
from services.engine.memory.probe import measure_free_bytes

NAME = "eviction"
NEEDS_STACK = True


def list_cases(scale: Scale) -> list[Case]:
    return [{"model": scale.models[0]}]


def run(case: Case, measuring: Measuring) -> None:
    plan = measuring.build_plan(str(case["model"]), needs_second=True)
    results = Relabelled(target=measuring.results, scenario=f"{NAME} {case['model']}")
    before = measure_free_bytes(open_probe())
    swap.run(plan, results)
    after = measure_free_bytes(open_probe())
    for pool in before:
        if pool != HOST:
            left = (before[pool] - after[pool]) / 2**20
            results.add(NAME, "after all", pool, 0, left_mib=left)
