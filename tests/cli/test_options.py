"""The options of a stack as JSON for the detached supervisor."""

from __future__ import annotations

from pathlib import Path

from services.cli.options import StackOptions, from_json, to_json


def test_options_survive_encoding() -> None:
    options = StackOptions(data_dir=Path("/srv/data"), host="::1", workers=3, drain_seconds=2.5)

    assert from_json(to_json(options)) == options
