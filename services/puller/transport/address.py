"""Where a file is downloaded from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, and the headers that only its origin may see.

    `refusals` has the message for a final status of the origin, where the source knows a better one
    than `range_response.describe_refusal`.
    """

    url: str
    secret_headers: Mapping[str, str] | None = None
    refusals: Mapping[int, str] = field(default_factory=dict)
