"""The error of a command that cannot continue."""

from __future__ import annotations


class CommandError(Exception):
    """A command's failure; shown as `spindll: message`, with exit status 1.

    The message is one line with the cause and, where possible, the remedy.
    """

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details  # shown below the message, such as the last lines of a log
