"""What is known about the prompt of one request, and why it was computed or found.

A request is compared with the one before it of the same API key and model.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from services.api.cache_reports.fingerprint import (
    Change,
    Difference,
    Fingerprint,
    find_difference,
)
from services.shared.structs import resolved

Reason = Literal[
    "found",
    "cache_off",
    "first_request",
    "other_tenant",
    "other_private_key",
    "model_changed",
    "new_text",
    "diverged",
    "lost",
]

BLOCK_TOKENS = 256  # of the prompt cache: what is stored of a prompt ends at a multiple of it
_ALWAYS_COMPUTED = 16  # at most: the end of a prompt is computed even where all of it was found


class PromptUse(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tokens of a prompt came from."""

    prompt_tokens: int
    cached_tokens: int
    stored_tokens: int = 0  # of the cached ones: those that were stored in RAM or on disk
    disk_tokens: int = 0  # of those: on disk
    saved_seconds: float | None = None  # an estimate; None: there is nothing to estimate it by


@resolved
class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the next request of the same key and model is compared with."""

    request_id: str
    tenant: bytes  # its keyed hash, as of the next ones
    private_key: bytes  # of the empty key, where there was none
    model: bytes
    fingerprint: Fingerprint
    prompt_tokens: int = 0  # 0: not known


@resolved
class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one request, as it is kept."""

    model: str
    created_at: float  # unix seconds
    use: PromptUse
    is_finished: bool
    reason: Reason
    compared_with: str | None = None  # the id of the earlier request
    field: str | None = None
    change: Change | None = None
    character: int | None = None


def build_report(
    asked: Asked,
    before: Asked | None,
    use: PromptUse,
    *,
    model: str,
    created_at: float,
    is_finished: bool,
    uses_cache: bool,
) -> Report:
    """The report of a request; `before` is the one that it is compared with."""
    reason, difference = find_reason(asked, before, use, uses_cache=uses_cache)
    return Report(
        model=model,
        created_at=created_at,
        use=use,
        is_finished=is_finished,
        reason=reason,
        compared_with=None if before is None else before.request_id,
        field=None if difference is None else difference.field,
        change=None if difference is None else difference.change,
        character=None if difference is None else difference.character,
    )


def find_reason(
    asked: Asked, before: Asked | None, use: PromptUse, *, uses_cache: bool
) -> tuple[Reason, Difference | None]:
    """Why a prompt was computed or found, and where it differs from the one before.

    The first that applies: 1 the request forbids it, 2 nothing was left to compute, 3 there is
    nothing to compare with, 4 what was computed before belongs to others, 5 the model is another
    one, 6 the text differs, 7 what is equal was not found, or 8 the text goes on.
    """
    if not uses_cache:  # 1
        return "cache_off", None
    difference = None if before is None else find_difference(before.fingerprint, asked.fingerprint)
    computed = use.prompt_tokens - use.cached_tokens
    if computed <= min(_ALWAYS_COMPUTED, use.cached_tokens):  # 2
        return "found", difference
    if before is None:  # 3
        return "first_request", None
    if not use.cached_tokens and before.tenant != asked.tenant:  # 4
        return "other_tenant", None
    if not use.cached_tokens and before.private_key != asked.private_key:
        return "other_private_key", None
    if before.model != asked.model:  # 5
        return "model_changed", Difference("model", "differs")
    if difference is not None and not _goes_on(before, asked):  # 6
        return "diverged", difference
    return ("lost" if _is_lost(before, use) else "new_text"), difference  # 7, 8


def _goes_on(before: Asked, asked: Asked) -> bool:
    """Whether one of the prompts is the beginning of the other."""
    old, new = before.fingerprint.fields, asked.fingerprint.fields
    shared = min(len(old), len(new))
    return old[:shared] == new[:shared]


def _is_lost(before: Asked, use: PromptUse) -> bool:
    """Whether much less was found than the prompts have in common."""
    expected = min(before.prompt_tokens, use.prompt_tokens)
    cut_off = min(BLOCK_TOKENS, expected // 2) + _ALWAYS_COMPUTED
    return expected - use.cached_tokens > cut_off
