"""OpenAI's `usage` object, and llama.cpp's `timings` in addition."""

from __future__ import annotations

from typing import Any

from services.api.generation.answers.usage import UsageCounter


def build_usage(usage: UsageCounter) -> dict[str, Any]:
    """Tokens of the prompts, of which cached, and of the answers."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def build_timings(usage: UsageCounter) -> dict[str, Any]:
    """Milliseconds and rates under llama.cpp's names."""
    prompt_n = usage.prompt_tokens - usage.cached_tokens
    predicted_n = usage.completion_tokens
    prompt_ms = 1000 * usage.prompt_seconds
    predicted_ms = 1000 * usage.generate_seconds
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": prompt_n,
        "prompt_ms": round(prompt_ms, 3),
        "prompt_per_token_ms": _ratio(prompt_ms, prompt_n),
        "prompt_per_second": _ratio(1000 * prompt_n, prompt_ms),
        "predicted_n": predicted_n,
        "predicted_ms": round(predicted_ms, 3),
        "predicted_per_token_ms": _ratio(predicted_ms, predicted_n),
        "predicted_per_second": _ratio(1000 * predicted_n, predicted_ms),
        "draft_n": usage.draft_tokens,
        "draft_n_accepted": usage.draft_accepted,
        "queue_ms": round(1000 * usage.queue_seconds, 3),
        "stored_n": usage.stored_tokens,
        "stored_tier": usage.tier,
        "saved_ms": round(1000 * usage.saved_seconds, 3),
    }


def _ratio(numerator: float, denominator: float) -> float:
    return round(numerator / denominator, 3) if denominator > 0 else 0.0
