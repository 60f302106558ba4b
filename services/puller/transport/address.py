"""Where a file is downloaded from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, and the headers that only its origin may see."""

    url: str
    secret_headers: Mapping[str, str] | None = None
