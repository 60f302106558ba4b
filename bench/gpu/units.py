"""The list of everything to measure, in its order, cut into units that a call can complete."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType

from bench.gpu.scale import Scale

# In the order in which the answers matter: a call that is cut short has the first ones.
ITEMS = (
    "device",
    "models",
    "offload",
    "steps",
    "servers",
    "sampling",
    "device_sampling",
    "buckets",
    "prefill",
    "pace",
    "eviction",
    "kill",
    "drafting",
)


@dataclass(frozen=True, slots=True)
class Unit:
    """One case of one item."""

    item: str
    case: Mapping[str, str | int | bool]
    needs_stack: bool

    @property
    def name(self) -> str:
        """Unique in the list, and the same in every call."""
        return f"{self.item} {json.dumps(dict(self.case))}"


def load_item(name: str) -> ModuleType:
    """The module of an item; see items/__init__.py."""
    return importlib.import_module(f"bench.gpu.items.{name}")


def list_units(items: Iterable[str], scale: Scale) -> list[Unit]:
    """All units of the items, the first model's of an item before the second's."""
    units = []
    for item in items:
        module = load_item(item)
        units += [Unit(item, case, module.NEEDS_STACK) for case in module.list_cases(scale)]
    return units


def select_units(units: Iterable[Unit], conditions: Iterable[str]) -> list[Unit]:
    """The units that meet each of the conditions FIELD=VALUE, or lack its field.

    Raises ValueError for a condition that no unit meets.
    """
    selected = list(units)
    for condition in conditions:
        field, _, value = condition.partition("=")
        values = {str(unit.case[field]) for unit in selected if field in unit.case}
        if value not in values:
            known = ", ".join(sorted(values)) or "no unit has this field"
            raise ValueError(f"no case has {condition!r}; {field}: {known}")
        selected = [u for u in selected if str(u.case.get(field, value)) == value]
    return selected
