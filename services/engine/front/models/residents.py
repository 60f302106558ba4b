"""How the memory plan sees a model: what it was promised, what it has taken, whether it may go."""

from __future__ import annotations

from collections.abc import Mapping

from services.engine.front.models.loaded_model import Model, State
from services.engine.front.models.residency import TurnRules, is_settling
from services.engine.memory.plan import Resident
from services.engine.memory.probe import HOST


def resident_of(model: Model, rules: TurnRules, now: float) -> Resident:
    """The model as a fact of this moment."""
    need = model.footprint.need if model.footprint is not None and model.has_memory else {}
    return Resident(
        key=model.key,
        name=model.name,
        promised=need,
        untaken=_untaken(model, need),
        is_busy=model.is_busy or bool(model.waiting and model.accepts(rules, now)),
        is_pinned=model.is_pinned,
        is_settling=is_settling(model.residency, rules, now),
        is_moving=model.state is not State.READY,
        idle_seconds=max(now - model.residency.last_used, 0.0),
        reload_seconds=max(model.residency.load_seconds, 0.1),
        priority=model.settings.priority or 0,
    )


def _untaken(model: Model, need: Mapping[str, int]) -> Mapping[str, int]:
    """While it loads, all of it: it may have taken any part."""
    if model.state is not State.READY or model.footprint is None:
        return need
    # Weights in main memory are mapped files: the machine counts them as free.
    share = model.footprint.pool_bytes.get(HOST, 0)
    return {HOST: min(model.footprint.weights_bytes, share, need.get(HOST, 0))}
