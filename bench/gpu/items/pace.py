"""Gaps of a running stream while a long prompt is read, by how much that may lengthen a step."""

from __future__ import annotations

import dataclasses

from bench.gpu.measuring import Case, Measuring, Relabelled
from bench.gpu.scale import Scale
from bench.scenarios import stall

NAME = "pace"
NEEDS_STACK = True
_SETTING = "SPINDLL_TARGET_STEP_MS"


def list_cases(scale: Scale) -> list[Case]:
    """A target of 0 is the default."""
    return [
        {"model": model, "target_ms": target}
        for model in scale.models
        for target in (0, *scale.target_steps)
    ]


def run(case: Case, measuring: Measuring) -> None:
    target = int(case["target_ms"])
    plan = measuring.build_plan(
        str(case["model"]), settings={_SETTING: str(target)} if target else {}
    )
    if target:  # one comparison with llama-server is enough
        peers = dataclasses.replace(plan.peers, llama_server=None)
        plan = dataclasses.replace(plan, peers=peers)
    label = f"target {target} ms" if target else "default target"
    stall.run(
        plan, Relabelled(target=measuring.results, scenario=f"{NAME} {case['model']}", case=label)
    )
