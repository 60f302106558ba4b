"""Two models, memory for one: how long the first token takes when they take turns."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from bench.load import ask_one
from bench.prompts import Ask, text
from bench.results import Results
from bench.scenarios.plan import MODEL, Plan, check, skip
from bench.servers import OURS, Running, running

NAME = "swap"
_OTHER = "bench-other"


def run(plan: Plan, results: Results) -> None:
    """Time to first token of a model that is loaded, and of one that has to be swapped in."""
    if plan.second_model is None:
        skip(results, NAME, "there is no second model: --second-model")
        return
    shape = plan.shape(context_tokens=2048, sequences=2)
    models = {MODEL: plan.model, _OTHER: plan.second_model}
    shape = dataclasses.replace(shape, models=models)
    with running((OURS,), shape, plan.peers, plan.workdir) as servers:
        budget = {"SPINDLL_MEMORY_BUDGET": f"{_room_for_one(servers[0]) >> 20}M"}
    shape = dataclasses.replace(shape, settings={**shape.settings, **budget})
    with running((OURS,), shape, plan.peers, plan.workdir) as servers:
        for number in range(plan.rounds):
            for name in (_OTHER, MODEL):
                _measure(results, servers[0], name, number)


def _measure(results: Results, server: Running, name: str, number: int) -> None:
    target = dataclasses.replace(server.target, model=name)
    swapped = asyncio.run(ask_one(target, Ask(prompt=text(8, number), max_tokens=4)))
    loaded = asyncio.run(ask_one(target, Ask(prompt=text(8, number + 500), max_tokens=4)))
    check([swapped, loaded], server)
    assert swapped.first_token_seconds is not None
    assert loaded.first_token_seconds is not None
    results.put(
        NAME,
        "2 models by turns",
        server.name,
        number,
        swap_first_token_ms=1000 * swapped.first_token_seconds,
        loaded_first_token_ms=1000 * loaded.first_token_seconds,
    )


def _room_for_one(server: Running) -> int:
    """Bytes in which one of the models fits, and two do not."""
    plan: Any = server.ask("POST", f"/v1/models/{_OTHER}/plan")
    model = plan["weights_bytes"] + plan["kv_bytes"] + plan["compute_bytes"]
    return int(1.5 * model + plan["reserve_bytes"])
