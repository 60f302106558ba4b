"""Estimates the seconds that a found prompt saved, from how fast other prompts were computed."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from services.api.cache_reports.report import PromptUse

MIN_TOKENS = 64  # computed ones: of fewer, the time tells nothing about their number
_MAX_MODELS = 64


class PrefillRates:
    """Seconds per token of the last prompt that each model computed on its own."""

    def __init__(self) -> None:
        self._rates: OrderedDict[str, float] = OrderedDict()

    def estimate_saved(self, model: str, use: PromptUse, prompt_seconds: float) -> PromptUse:
        """The use with its saved seconds: of stored tokens as measured when they were computed.

        Those of the model's memory count as many as the last tokens that the model computed; where
        that is not known, no estimate is made.
        """
        self._learn(model, use, prompt_seconds)
        live_tokens = use.cached_tokens - use.stored_tokens
        if not live_tokens:
            return use
        rate = self._rates.get(model)
        if rate is None:
            return msgspec.structs.replace(use, saved_seconds=None)
        saved = (use.saved_seconds or 0.0) + rate * live_tokens
        return msgspec.structs.replace(use, saved_seconds=saved)

    def _learn(self, model: str, use: PromptUse, prompt_seconds: float) -> None:
        computed = use.prompt_tokens - use.cached_tokens
        if computed < MIN_TOKENS or prompt_seconds <= 0:
            return
        self._rates[model] = prompt_seconds / computed
        self._rates.move_to_end(model)
        if len(self._rates) > _MAX_MODELS:
            self._rates.popitem(last=False)
