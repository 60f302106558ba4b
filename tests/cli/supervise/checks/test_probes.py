"""What `up` shows of the api's readiness."""

from __future__ import annotations

import pytest

from services.cli.supervise.checks.probes import describe_not_ready


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"ready":false,"missing":["Redis does not answer","x"]}', "Redis does not answer; x"),
        ('{"ready":false}', "the api is not ready"),
        ("", "the api does not respond"),
    ],
    ids=["reasons", "no reason", "no response"],
)
def test_the_reasons_of_ready_are_shown(body: str, expected: str) -> None:
    assert describe_not_ready(body) == expected
