"""What a failed command prints."""

from __future__ import annotations

import pytest

from services.cli import __main__
from services.cli.errors import CommandError


def test_an_error_has_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise CommandError("it has: \x1b[2Jm.gguf\nmore", details="a\x1b]0;b\x07\nc")

    monkeypatch.setattr(__main__, "app", fail)

    assert __main__.main() == 1
    assert capsys.readouterr().err == "spindll: it has: �[2Jm.gguf�more\na�]0;b�\nc\n"
