"""A run as people read it: markdown tables with ratios, and one plot a scenario."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.plot import Line, line_plot
from bench.results import Results

_BASE = "spindll"


def markdown(results: Results, about: Mapping[str, object], *, plots: Mapping[str, str]) -> str:
    """One table a scenario: medians by server, and ours over each peer's, round by round."""
    medians, multiples = results.medians(), results.ratios(_BASE)
    lines = ["# Benchmark", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", *results.notes]
    for scenario in dict.fromkeys(m.scenario for m in results.measurements):
        keys = [key for key in medians if key[0] == scenario]
        servers = list(dict.fromkeys(key[3] for key in keys))
        peers = [server for server in servers if server != _BASE and _BASE in servers]
        header = ["case", "metric", *servers, *(f"ours / {peer}" for peer in peers)]
        lines += ["", f"## {scenario}", "", _row(header), _row(["-"] * len(header))]
        for case, metric in dict.fromkeys((key[1], key[2]) for key in keys):
            found = [medians.get((scenario, case, metric, server)) for server in servers]
            ratios = [_ratio(multiples.get((scenario, case, metric, peer))) for peer in peers]
            lines.append(_row([case, metric, *(_number(value) for value in found), *ratios]))
        if scenario in plots:
            lines += ["", f"![{scenario}]({plots[scenario]})"]
    return "\n".join(lines) + "\n"


def write_plots(results: Results, folder: Path, stem: str) -> dict[str, str]:
    """An SVG for each scenario that varies a number; file names by scenario."""
    medians = results.medians()
    written = {}
    for scenario in dict.fromkeys(m.scenario for m in results.measurements):
        first = next(m.metric for m in results.measurements if m.scenario == scenario)
        lines: dict[str, list[tuple[float, float]]] = {}
        for (name, case, metric, server), value in medians.items():
            number = case.split(" ", 1)[0]
            if name == scenario and metric == first and number.isdigit():
                lines.setdefault(server, []).append((float(number), value))
        drawn = [Line(server, tuple(points)) for server, points in lines.items()]
        if drawn and max(len(line.points) for line in drawn) > 1:
            written[scenario] = f"{stem}-{scenario.replace(' ', '-')}.svg"
            unit = next(m.case for m in results.measurements if m.scenario == scenario)
            svg = line_plot(drawn, title=scenario, x=unit.split(" ", 1)[1], y=first)
            (folder / written[scenario]).write_text(svg)
    return written


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} x"
