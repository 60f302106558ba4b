"""Files keep every measurement, and ratios divide Spindll by the peer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.plot import Line, render_line_plot
from bench.report import render_markdown, write_plots
from bench.results import Results, read_csv, write_csv


def make_results() -> Results:
    results = Results()
    for round_number, (own, other) in enumerate([(10.0, 5.0), (30.0, 10.0), (20.0, 40.0)]):
        for clients, factor in ((1, 1.0), (8, 4.0)):
            case = f"{clients} clients"
            results.add("speed", case, "spindll", round_number, tokens_per_second=own * factor)
            results.add(
                "speed", case, "llama-server", round_number, tokens_per_second=other * factor
            )
    results.add("speed", "after all", "spindll", 0, resident_mib=512, nothing=None)
    return results


def test_a_csv_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    results = make_results()
    metadata = {"command": "bench, with a comma", "cores": 2}

    write_csv(results.measurements, metadata, tmp_path / "raw.csv")

    assert read_csv(tmp_path / "raw.csv") == (results.measurements, metadata)


def test_the_report_shows_medians_and_ratios_within_rounds() -> None:
    report = render_markdown(make_results(), {"command": "x"}, plots={})

    assert "| 1 clients | tokens_per_second | 20 | 10 | 2.00 x |" in report
    assert "| 8 clients | tokens_per_second | 80 | 40 | 2.00 x |" in report
    assert "| after all | resident_mib | 512 |  |  |" in report
    assert "nothing" not in report


def test_a_machine_that_slows_down_between_rounds_does_not_change_the_ratio() -> None:
    results = Results()
    for round_number, speed in enumerate((100.0, 50.0, 10.0)):
        results.add("speed", "8 clients", "spindll", round_number, tokens_per_second=1.1 * speed)
        if round_number != 1:
            results.add("speed", "8 clients", "peer", round_number, tokens_per_second=speed)
    results.add("speed", "8 clients", "idle", 0, tokens_per_second=0.0)

    ratios = results.ratios("spindll")

    assert ratios == pytest.approx({("speed", "8 clients", "tokens_per_second", "peer"): 1.1})


def test_a_scenario_that_varies_a_number_is_plotted(tmp_path: Path) -> None:
    plots = write_plots(make_results(), tmp_path, "run")

    assert plots == {"speed": "run-speed.svg"}
    drawing = ET.fromstring((tmp_path / "run-speed.svg").read_text())
    texts = [node.text for node in drawing.iter() if node.text and node.text.strip()]
    assert {"speed", "clients", "tokens_per_second", "spindll", "llama-server"} <= set(texts)


def test_a_plot_keeps_its_points_inside_and_draws_higher_values_higher() -> None:
    svg = render_line_plot([Line("<a&b>", ((1, 5), (4, 20), (16, 10)))], title="t", x="x", y="y")

    drawing = ET.fromstring(svg)
    spots = [
        (float(node.attrib["cx"]), float(node.attrib["cy"]))
        for node in drawing.iter("{http://www.w3.org/2000/svg}circle")
    ]
    assert all(0 < x < 640 and 0 < y < 360 for x, y in spots)
    assert [x for x, _ in spots] == sorted(x for x, _ in spots)
    assert spots[1][1] < spots[2][1] < spots[0][1]


def test_a_plot_of_zeros_is_valid() -> None:
    ET.fromstring(render_line_plot([Line("a", ((0, 0), (0, 0)))], title="t", x="x", y="y"))
