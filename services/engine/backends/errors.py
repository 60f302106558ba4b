"""What a backend raises while it computes; the loop turns it into an error for the client."""

from __future__ import annotations


class BackendError(Exception):
    """The backend could not compute a step. Its message is for the log, not for a client.

    What the step's sequences hold afterwards is unknown: drop them.
    """
