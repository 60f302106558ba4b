"""The file of results keeps every measurement, and the next call continues it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gpu.results_file import Progress, State, open_progress
from bench.results import Measurement

METADATA = {"command": "first", "device": "some GPU", "is_dry": False}


def measured(value: float, *, case: str = "8 sequences") -> Measurement:
    return Measurement("steps", case, "unified", 0, "step_ms", value)


def begin(folder: Path) -> Progress:
    progress = open_progress(folder, folder, METADATA, is_fresh=True)
    progress.begin()
    return progress


def reopen(folder: Path, fallback: Path, **changes: object) -> Progress:
    return open_progress(folder, fallback, METADATA | changes, is_fresh=False)


def test_a_measurement_is_in_the_file_before_its_unit_ends(tmp_path: Path) -> None:
    progress = begin(tmp_path)
    progress.add(measured(1.0))
    progress.add_note("- a note")

    again = reopen(tmp_path, tmp_path)

    assert again.path == progress.path
    assert again.results.measurements == [measured(1.0)]
    assert again.results.notes == ["- a note"]
    assert again.is_left("steps {}")


def test_a_further_attempt_replaces_what_it_measures_again_and_nothing_else(tmp_path: Path) -> None:
    progress = begin(tmp_path)
    progress.add(measured(1.0))
    progress.add(measured(2.0, case="16 sequences"))
    progress.begin()

    progress.add(measured(3.0))
    progress.add(measured(4.0))  # a unit may measure the same thing twice

    assert progress.results.measurements == [
        measured(2.0, case="16 sequences"),
        measured(3.0),
        measured(4.0),
    ]


@pytest.mark.parametrize(
    ("states", "is_left"),
    [
        ([State.DONE], False),
        ([State.CUT_OFF], True),
        ([State.CUT_OFF, State.CUT_OFF, State.CUT_OFF], True),
        ([State.SKIPPED], True),
        ([State.FAILED], True),
        ([State.FAILED, State.FAILED], False),
        ([State.FAILED, State.DONE], False),
    ],
    ids=lambda value: (
        " then ".join(s.value for s in value) if isinstance(value, list) else str(value)
    ),
)
def test_a_unit_is_left_until_it_is_done_or_has_failed_twice(
    tmp_path: Path, states: list[State], is_left: bool
) -> None:
    progress = begin(tmp_path)
    for state in states:
        progress.set_outcome("steps {}", state, seconds=1.0)

    assert reopen(tmp_path, tmp_path).is_left("steps {}") is is_left


def test_a_run_is_continued_from_the_other_folder_under_the_same_name(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    progress = begin(old)
    progress.set_outcome("steps {}", State.DONE)

    again = reopen(new, old, command="second")
    again.save()

    assert again.path == new / progress.path.name
    assert not reopen(new, old).is_left("steps {}")
    assert reopen(new, old).metadata["command"] == "first"  # that of METADATA, of this call


def test_another_device_begins_a_file_of_its_own(tmp_path: Path) -> None:
    begin(tmp_path).set_outcome("steps {}", State.DONE)

    assert reopen(tmp_path, tmp_path, device="another GPU").is_left("steps {}")
    assert reopen(tmp_path, tmp_path, is_dry=True).is_left("steps {}")


def test_the_report_names_what_was_not_measured_and_why(tmp_path: Path) -> None:
    progress = begin(tmp_path)
    progress.add(measured(1.5))
    progress.set_outcome("steps {}", State.DONE)
    progress.set_outcome("kill {}", State.SKIPPED, reason="missing: redis-server")

    report = progress.render()

    assert "- kill {}: skipped, missing: redis-server" in report
    assert "| 8 sequences | step_ms | 1.5 |" in report
    assert "steps {}" not in report
