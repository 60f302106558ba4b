"""The errors of a Go template."""

from __future__ import annotations


class GoTemplateError(Exception):
    """What is wrong with a template, and in which line of it (from 1), if it is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class LimitExceeded(GoTemplateError):
    """A render takes more steps, or makes more text, than it may."""
