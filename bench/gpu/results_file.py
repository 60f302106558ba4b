"""The file of results: it has every number as soon as it is measured, and what is left to measure.

The file is a CSV as of the other benchmarks. The JSON in its first line also holds the state of
each unit, so that the next call continues. Beside it lies the report as markdown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from bench.report import render_markdown
from bench.results import Measurement, Results, read_csv, write_csv

_UNITS, _NOTES = "units", "notes"
_SUFFIX = "-gpu.csv"
MAX_ATTEMPTS = 2

Key = tuple[str, str, str, int, str]  # what a measurement is of


class State(Enum):
    """What became of a unit."""

    DONE = "done"
    FAILED = "failed"  # by itself; tried once more
    CUT_OFF = "cut off"  # the time of the call was up
    SKIPPED = "skipped"  # something is missing; tried again in each call


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The state of a unit after a call."""

    state: State
    seconds: float = 0.0
    attempts: int = 1
    reason: str = ""


@dataclass(slots=True)
class Progress:
    """Results and outcomes; `save` after each change."""

    path: Path
    metadata: dict[str, Any]
    results: Results = field(default_factory=Results)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _added: set[Key] = field(default_factory=set)  # in this attempt of a unit

    def begin(self) -> None:
        """Begin an attempt of a unit: what it adds replaces what earlier attempts have added."""
        self._added.clear()

    def is_left(self, name: str) -> bool:
        """Whether the unit must still be measured."""
        outcome = self.outcomes.get(name)
        if outcome is None or outcome.state in (State.CUT_OFF, State.SKIPPED):
            return True
        return outcome.state is State.FAILED and outcome.attempts < MAX_ATTEMPTS

    def set_outcome(self, name: str, state: State, *, seconds: float = 0, reason: str = "") -> None:
        """Record the end of one attempt. Only failures count as attempts."""
        last = self.outcomes.get(name)
        before = last.attempts if last is not None and last.state is State.FAILED else 0
        self.outcomes[name] = Outcome(
            state=state, seconds=round(seconds, 1), attempts=before + 1, reason=reason
        )
        self.save()

    def add(self, measurement: Measurement) -> None:
        """Add a measurement of the present attempt."""
        key = _identify(measurement)
        if key not in self._added:
            self._added.add(key)
            kept = [m for m in self.results.measurements if _identify(m) != key]
            self.results.measurements[:] = kept
        self.results.measurements.append(measurement)
        self.save()

    def add_note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.results.notes:
            self.results.notes.append(text)
            self.save()

    def save(self) -> None:
        """Replace the file: it is complete at every moment."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        units = {
            name: {
                "state": o.state.value,
                "seconds": o.seconds,
                "attempts": o.attempts,
                "reason": o.reason,
            }
            for name, o in self.outcomes.items()
        }
        metadata = {**self.metadata, _NOTES: self.results.notes, _UNITS: units}
        write_csv(self.results.measurements, metadata, partial)
        partial.replace(self.path)

    def render(self) -> str:
        """The report as markdown: what was not measured, then the tables."""
        rows = [
            f"- {name}: {outcome.state.value}" + (f", {outcome.reason}" if outcome.reason else "")
            for name, outcome in self.outcomes.items()
            if outcome.state is not State.DONE
        ]
        results = Results(self.results.measurements, [*self.results.notes, *rows])
        return render_markdown(results, self.metadata, plots={})


def open_progress(
    folder: Path, fallback: Path, metadata: Mapping[str, Any], *, is_fresh: bool
) -> Progress:
    """Continue the newest results of this device, from `folder` or else `fallback`, or begin.

    Results that are continued are written to `folder` under the same name.
    """
    if not is_fresh:
        for source in (folder, fallback):
            for path in sorted(source.glob(f"*{_SUFFIX}"), reverse=True):
                progress = _read(path, folder / path.name)
                if _is_same_device(progress.metadata, metadata):
                    progress.metadata |= metadata
                    return progress
    stem = time.strftime("%Y%m%d-%H%M%S")
    return Progress(folder / f"{stem}{_SUFFIX}", dict(metadata))


def _is_same_device(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (one.get("device"), one.get("is_dry")) == (other.get("device"), other.get("is_dry"))


def _read(source: Path, path: Path) -> Progress:
    measurements, metadata = read_csv(source)
    units: Any = metadata.pop(_UNITS, {})
    notes: Any = metadata.pop(_NOTES, [])
    outcomes = {
        name: Outcome(
            state=State(unit["state"]),
            seconds=unit["seconds"],
            attempts=unit["attempts"],
            reason=unit["reason"],
        )
        for name, unit in units.items()
    }
    return Progress(path, dict(metadata), Results(measurements, list(notes)), outcomes)


def _identify(m: Measurement) -> Key:
    return m.scenario, m.case, m.server, m.round, m.metric
