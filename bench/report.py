"""Write the report of a run: markdown tables with ratios, and one plot per scenario."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.plot import Line, render_line_plot
from bench.results import Results
from bench.servers.start import SPINDLL

_BASE = SPINDLL  # the server whose ratios to the others are shown


def render_markdown(
    results: Results, metadata: Mapping[str, object], *, plots: Mapping[str, str]
) -> str:
    """Render one table per scenario: medians by server, and the ratios of Spindll to each peer."""
    medians, ratios = results.medians(), results.ratios(_BASE)
    lines = ["# Benchmark", ""]
    lines += [f"- {name}: {value}" for name, value in metadata.items()]
    lines += ["", *results.notes]
    for scenario in dict.fromkeys(m.scenario for m in results.measurements):
        keys = [key for key in medians if key[0] == scenario]
        servers = list(dict.fromkeys(key[3] for key in keys))
        peers = [server for server in servers if server != _BASE and _BASE in servers]
        header = ["case", "metric", *servers, *(f"{_BASE} / {peer}" for peer in peers)]
        lines += ["", f"## {scenario}", "", _format_row(header), _format_row(["-"] * len(header))]
        for case, metric in dict.fromkeys((key[1], key[2]) for key in keys):
            values = [medians.get((scenario, case, metric, server)) for server in servers]
            quotients = [ratios.get((scenario, case, metric, peer)) for peer in peers]
            cells = [*map(_format_number, values), *map(_format_ratio, quotients)]
            lines.append(_format_row([case, metric, *cells]))
        if scenario in plots:
            lines += ["", f"![{scenario}]({plots[scenario]})"]
    return "\n".join(lines) + "\n"


def write_plots(results: Results, folder: Path, stem: str) -> dict[str, str]:
    """Write an SVG for each scenario that varies a number; returns file names by scenario."""
    medians = results.medians()
    written = {}
    for scenario in dict.fromkeys(m.scenario for m in results.measurements):
        first = next(m.metric for m in results.measurements if m.scenario == scenario)
        lines: dict[str, list[tuple[float, float]]] = {}
        for (name, case, metric, server), value in medians.items():
            number = case.split(" ", 1)[0]
            if name == scenario and metric == first and number.isdigit():
                lines.setdefault(server, []).append((float(number), value))
        series = [Line(server, tuple(points)) for server, points in lines.items()]
        if series and max(len(line.points) for line in series) > 1:
            written[scenario] = f"{stem}-{scenario.replace(' ', '-')}.svg"
            unit = next(m.case for m in results.measurements if m.scenario == scenario)
            svg = render_line_plot(series, title=scenario, x=unit.split(" ", 1)[1], y=first)
            (folder / written[scenario]).write_text(svg)
    return written


def _format_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _format_number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _format_ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} x"
