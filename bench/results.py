"""Measurements and what is computed from them: raw CSV, medians, and ratios to a peer."""

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
    """One number. `case` describes the varied parameter, such as "8 clients"."""

    scenario: str
    case: str
    server: str
    round: int
    metric: str  # ends with its unit
    value: float


@dataclass(slots=True)
class Results:
    """All measurements of a run, in the order in which they were added."""

    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, scenario: str, case: str, server: str, round_number: int, **values: float | None
    ) -> None:
        """Add the values that are not None, and print them to show the progress of a long run."""
        for metric, value in values.items():
            if value is not None:
                self.measurements.append(
                    Measurement(scenario, case, server, round_number, metric, float(value))
                )
        shown = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if v is not None)
        print(f"{scenario} | {case} | round {round_number} | {server}: {shown}", flush=True)

    def add_note(self, text: str) -> None:
        """Add a line of text to the report, and print it."""
        self.notes.append(text)
        print(text, flush=True)

    def medians(self) -> dict[tuple[str, str, str, str], float]:
        """The median over all rounds, by (scenario, case, metric, server)."""
        values: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        for m in self.measurements:
            values[m.scenario, m.case, m.metric, m.server].append(m.value)
        return {key: statistics.median(found) for key, found in values.items()}

    def ratios(self, server: str) -> dict[tuple[str, str, str, str], float]:
        """The ratio of a server to each other one, by (scenario, case, metric, other server).

        It is the median of the ratios within one round. The servers of a round run minutes apart;
        the rounds that give the medians of two servers may be an hour apart.
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
        return {key: statistics.median(ratios) for key, ratios in found.items()}


def write_csv(
    measurements: Iterable[Measurement], metadata: Mapping[str, object], path: Path
) -> None:
    """Write CSV. The first line is `#` and `metadata` as JSON: the machine and the command."""
    with path.open("w", newline="") as file:
        file.write(f"# {json.dumps(metadata)}\n")
        writer = csv.DictWriter(file, Measurement.__slots__)
        writer.writeheader()
        writer.writerows(asdict(m) for m in measurements)


def read_csv(path: Path) -> tuple[list[Measurement], dict[str, object]]:
    """Read the measurements and the metadata that `write_csv` wrote."""
    with path.open(newline="") as file:
        metadata = json.loads(file.readline().removeprefix("# "))
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
    return rows, metadata
