"""The texts that `up` prints."""

from __future__ import annotations

from pathlib import Path

from services.cli.paths import StackPaths
from services.cli.supervise import state_file
from services.cli.supervise.reporting import curl_line, ready_text


def state(**changes: object) -> state_file.StackState:
    fields = {"pid": 1, "phase": "ready", "host": "0.0.0.0", "port": 8080, "grpc_port": 50051}
    return state_file.StackState(**{**fields, "started_at": 0.0, **changes})  # type: ignore[arg-type]


def test_a_quote_in_the_path_does_not_break_the_curl_command() -> None:
    line = curl_line(state(), StackPaths(Path("/srv/bob's data")))

    assert "$(cat '/srv/bob'\\''s data/secrets/user.key')" in line


def test_a_stack_that_is_not_ready_shows_the_reason_instead_of_a_curl_command() -> None:
    text = ready_text(state(not_ready_reason="no model is here yet"), StackPaths(Path("/srv/data")))

    assert text.splitlines()[-1] == "Not ready for chats yet: no model is here yet."
    assert "curl" not in text
