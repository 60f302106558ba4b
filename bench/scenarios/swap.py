"""How long the first token takes when two models alternate in memory that fits one."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from bench.load import send_request
from bench.prompts import LoadRequest, build_text
from bench.results import Results
from bench.scenarios.plan import MODEL, Plan, note_skipped, raise_on_error
from bench.servers.start import SPINDLL, RunningServer, start_servers

NAME = "swap"
_OTHER = "bench-other"


def run(plan: Plan, results: Results) -> None:
    """Measure the first token of a model that must be loaded first, and of a loaded model."""
    if plan.second_model is None:
        note_skipped(results, NAME, "there is no second model: --second-model")
        return
    options = plan.server_options(context_tokens=2048, sequences=2)
    models = {MODEL: plan.model, _OTHER: plan.second_model}
    options = dataclasses.replace(options, models=models)
    with start_servers((SPINDLL,), options, plan.peers, plan.workdir) as servers:
        budget = {"SPINDLL_MEMORY_BUDGET": f"{_budget_for_one_model(servers[0]) >> 20}M"}
    options = dataclasses.replace(options, settings={**options.settings, **budget})
    with start_servers((SPINDLL,), options, plan.peers, plan.workdir) as servers:
        for round_number in range(plan.rounds):
            for name in (_OTHER, MODEL):
                _measure(results, servers[0], name, round_number)


def _measure(results: Results, server: RunningServer, name: str, round_number: int) -> None:
    target = dataclasses.replace(server.target, model=name)
    first = LoadRequest(prompt=build_text(8, round_number), max_tokens=4)
    second = LoadRequest(prompt=build_text(8, round_number + 500), max_tokens=4)
    swapped = asyncio.run(send_request(target, first))
    loaded = asyncio.run(send_request(target, second))
    raise_on_error([swapped, loaded], server)
    assert swapped.first_token_seconds is not None
    assert loaded.first_token_seconds is not None
    results.add(
        NAME,
        "2 models by turns",
        server.name,
        round_number,
        swap_first_token_ms=1000 * swapped.first_token_seconds,
        loaded_first_token_ms=1000 * loaded.first_token_seconds,
    )


def _budget_for_one_model(server: RunningServer) -> int:
    """A number of bytes that fits one of the models but not both."""
    plan: Any = server.call("POST", f"/v1/models/{_OTHER}/plan")
    model = plan["weights_bytes"] + plan["kv_bytes"] + plan["compute_bytes"]
    return int(1.5 * model + plan["reserve_bytes"])
