"""What an item of the list works with, whatever it measures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.gpu.scale import Scale
from bench.model_files import ensure_synthetic_model
from bench.results import Results
from bench.scenarios.plan import Plan
from bench.servers.peers import Peers, find_peers

Case = Mapping[str, str | int | bool]  # what varies between the units of one item; JSON


class Unsupported(RuntimeError):
    """This cannot be measured here: the reason is the message."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """The sizes, and where results and files go."""

    scale: Scale
    results: Results
    workdir: Path

    def make_model(self, name: str, *, seed: int = 0) -> Path:
        """The file of a synthetic model PRESET:QUANT, made when it is first needed."""
        preset, _, quant = name.partition(":")
        return ensure_synthetic_model(preset, quant, seed=seed, is_fast=True)

    def find_peers(self) -> Peers:
        """See bench.servers.peers."""
        return find_peers(self.workdir, os.environ)

    def build_plan(
        self, model: str, *, settings: Mapping[str, str] | None = None, needs_second: bool = False
    ) -> Plan:
        """A plan for the scenarios of `bench.run`."""
        return Plan(
            model=self.make_model(model),
            second_model=self.make_model(model, seed=1) if needs_second else None,
            peers=self.find_peers(),
            workdir=self.workdir,
            rounds=self.scale.rounds,
            is_quick=self.scale.is_dry,
            threads=self.scale.threads,
            gpu_layers=self.scale.gpu_layers,
            settings=settings or {},
        )


@dataclass(slots=True)
class Relabelled(Results):
    """Adds to other results under another scenario, and with `case` before each case."""

    target: Results = field(default_factory=Results)
    scenario: str = ""
    case: str = ""

    def add(
        self, scenario: str, case: str, server: str, round_number: int, **values: float | None
    ) -> None:
        """See Results.add."""
        label = f"{self.case}, {case}" if self.case else case
        self.target.add(self.scenario, label, server, round_number, **values)

    def add_note(self, text: str) -> None:
        """See Results.add_note."""
        self.target.add_note(text)
