"""Checks for newer versions of stored models: the api asks, and a puller answers.

They travel as searches do, over the same channel and keys; search.py has the protocol.
"""

from __future__ import annotations

import msgspec

from services.shared.structs import resolved


@resolved
class UpdateQuery(msgspec.Struct, frozen=True, kw_only=True, tag="update"):
    """One check; `model` is the name of a stored model that knows what it was pulled from."""

    id: str
    model: str


@resolved
class UpdateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the source has now."""

    newest_version: str | None = None  # as in the manifest; None: the source no longer has it
    is_newer: bool = False  # a pull would change the model's files
    download_bytes: int = 0  # what a pull would download
    note: str | None = None  # a sentence when the source refuses the model
    failed: str | None = None  # a sentence when no answer was possible; worth another try
