"""One and four streams with drafted tokens and without, side by side."""

from __future__ import annotations

from bench.gpu.measuring import Case, Measuring, Relabelled
from bench.gpu.scale import Scale
from bench.scenarios import drafting

NAME = "drafting"
NEEDS_STACK = True


def list_cases(scale: Scale) -> list[Case]:
    return [{"model": model} for model in scale.models]


def run(case: Case, measuring: Measuring) -> None:
    """See bench.scenarios.drafting."""
    results = Relabelled(target=measuring.results, scenario=f"{NAME} {case['model']}")
    drafting.run(measuring.build_plan(str(case["model"])), results)
