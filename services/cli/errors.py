"""What a command ends with when it cannot go on: one line that says what to do."""

from __future__ import annotations


class CommandError(Exception):
    """Shown as `spindll: message`, exit status 1."""

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details  # shown below the line: a failing service's last words
