"""GET /v1/requests/{id}/cache: why the prompt of a request was computed, or found."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from services.api.access.keys import Role
from services.api.cache_reports.report import PromptUse, Report
from services.api.dependencies import ApiParts, Parts, RequireUser
from services.shared.errors import NotFound, SpindllError

router = APIRouter()

_EXPLANATIONS = {
    "found": "all of the prompt but its end was found",
    "cache_off": "the request kept its prompt out of the cache",
    "first_request": "this key sent no earlier prompt to this model within the last hour",
    "other_tenant": "the earlier prompt was computed for another tenant",
    "other_private_key": "the earlier prompt was computed for another private key, or for none",
    "model_changed": "the model is another build than that of the earlier prompt",
    "new_text": "the prompt goes on after the earlier one, or is its beginning",
    "diverged": "the prompt differs from the earlier one at this field",
    "lost": "the earlier prompt is equal, but what it computed is not there any more: it was "
    "evicted, its keys were changed, it was not computed to its end, or the model's memory "
    "cannot go back to this place (sliding window)",
    "not_stored": "the earlier prompt is equal, but nothing is stored (SPINDLL_CACHE_WRITE, or no "
    "tier), and it is not in the model's memory any more",
}


@router.get("/v1/requests/{request_id}/cache")
async def show_cache_report(
    api: Parts,
    principal: RequireUser,
    request_id: Annotated[str, Path(max_length=128)],
) -> dict[str, Any]:
    """Where the tokens of a request's prompt came from, and why the others were computed."""
    is_admin = principal.role is Role.ADMIN
    report = await api.cache_reports.find(request_id, None if is_admin else principal.id)
    if report is None:
        raise NotFound(
            "no report of such a request: it is unknown or older than an hour, its prompt was not "
            "begun, or another key sent it",
            param="request_id",
        )
    reason: str = report.reason
    if reason == "lost" and not await _is_stored(api):
        reason = "not_stored"
    return {
        "object": "cache_report",
        "id": request_id,
        "created": int(report.created_at),
        "model": report.model,
        "is_finished": report.is_finished,
        **_use_to_dict(report.use),
        "reason": reason,
        "explanation": _EXPLANATIONS[reason],
        "compared_with": report.compared_with,
        "difference": _difference_to_dict(report),
    }


async def _is_stored(api: ApiParts) -> bool:
    """Whether prompts are stored now; while the engine does not answer, it is taken so."""
    try:
        status = await api.engine.calls.read_cache_status(None)
    except SpindllError:
        return True
    return bool(status.tiers) and status.write != "never"


def _use_to_dict(use: PromptUse) -> dict[str, Any]:
    return {
        "prompt_tokens": use.prompt_tokens,
        "computed_tokens": use.prompt_tokens - use.cached_tokens,
        "cached_tokens": {
            "live": use.cached_tokens - use.stored_tokens,
            "ram": use.stored_tokens - use.disk_tokens,
            "disk": use.disk_tokens,
        },
        "saved_seconds_estimate": (
            None if use.saved_seconds is None else round(use.saved_seconds, 3)
        ),
    }


def _difference_to_dict(report: Report) -> dict[str, Any] | None:
    if report.field is None:
        return None
    return {"field": report.field, "change": report.change, "character": report.character}
