"""Measurements, and what becomes of them: raw CSV, medians, and ratios against a peer."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number. `case` is what was varied, in words: "8 clients"."""

    scenario: str
    case: str
    server: str
    round: int
    metric: str  # ends with its unit
    value: float


@dataclass(slots=True)
class Results:
    """All numbers of a run, in the order they came."""

    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def put(
        self, scenario: str, case: str, server: str, number: int, **values: float | None
    ) -> None:
        """Note the values that there are, and say so: a run takes long."""
        for metric, value in values.items():
            if value is not None:
                self.measurements.append(
                    Measurement(scenario, case, server, number, metric, float(value))
                )
        shown = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if v is not None)
        print(f"{scenario} | {case} | round {number} | {server}: {shown}", flush=True)

    def note(self, text: str) -> None:
        """A sentence for the report."""
        self.notes.append(text)
        print(text, flush=True)

    def medians(self) -> dict[tuple[str, str, str, str], float]:
        """By (scenario, case, metric, server)."""
        values: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        for m in self.measurements:
            values[m.scenario, m.case, m.metric, m.server].append(m.value)
        return {key: statistics.median(found) for key, found in values.items()}

    def ratios(self, server: str) -> dict[tuple[str, str, str, str], float]:
        """The median round's ratio of a server to each other one, by (scenario, case, metric, other).

        Within a round: those two ran minutes apart, the medians of a run perhaps an hour.
        """
        own = {
            (m.scenario, m.case, m.metric, m.round): m.value
            for m in self.measurements
            if m.server == server
        }
        found: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        for m in self.measurements:
            value = own.get((m.scenario, m.case, m.metric, m.round))
            if m.server != server and m.value and value is not None:
                found[m.scenario, m.case, m.metric, m.server].append(value / m.value)
        return {key: statistics.median(of_rounds) for key, of_rounds in found.items()}


def write_raw(measurements: Iterable[Measurement], about: Mapping[str, object], path: Path) -> None:
    """CSV, its first lines (from `#`) the machine and the command."""
    with path.open("w", newline="") as file:
        file.write(f"# {json.dumps(about)}\n")
        writer = csv.DictWriter(file, Measurement.__slots__)
        writer.writeheader()
        writer.writerows(asdict(m) for m in measurements)


def read_raw(path: Path) -> tuple[list[Measurement], dict[str, object]]:
    """What `write_raw` wrote."""
    with path.open(newline="") as file:
        about = json.loads(file.readline().removeprefix("# "))
        rows = [
            Measurement(
                row["scenario"],
                row["case"],
                row["server"],
                int(row["round"]),
                row["metric"],
                float(row["value"]),
            )
            for row in csv.DictReader(file)
        ]
    return rows, about
