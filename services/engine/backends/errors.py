"""The error that a backend raises in a step; the loop turns it into an error for the client."""

from __future__ import annotations


class BackendError(Exception):
    """The backend could not compute a step. The message is for the log, not for a client.

    The contents of the step's sequences are unknown afterwards, so they must be dropped.
    """
