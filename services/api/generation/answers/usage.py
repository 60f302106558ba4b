"""The usage of a generation, added up from the ends of its answers."""

from __future__ import annotations

from services.api.cache_reports.report import PromptUse
from services.api.generation.answers.events import Finished


class UsageCounter:
    """Tokens and times of one generation. A prompt counts once, however many answers it has."""

    def __init__(self, *, answers_per_prompt: int, answer_count: int) -> None:
        self._answers_per_prompt = answers_per_prompt
        self._answer_count = answer_count
        self._prompts: dict[int, Finished] = {}  # the answer that found least of each computed
        self._finished: list[Finished] = []

    def add(self, finished: Finished) -> None:
        """An answer has ended."""
        # One answer computes the prompt, and the others, one of which may end first, find it there.
        number = finished.index // self._answers_per_prompt
        known = self._prompts.setdefault(number, finished)
        if finished.cached_tokens < known.cached_tokens:
            self._prompts[number] = finished
        self._finished.append(finished)

    @property
    def is_complete(self) -> bool:
        """Whether every answer has ended."""
        return len(self._finished) == self._answer_count

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, cached ones included."""
        return sum(f.prompt_tokens for f in self._prompts.values())

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that were computed before the request."""
        return sum(f.cached_tokens for f in self._prompts.values())

    @property
    def stored_tokens(self) -> int:
        """The part of the cached tokens that was stored in RAM or on disk."""
        return sum(f.stored_tokens for f in self._prompts.values())

    @property
    def tier(self) -> str | None:
        """The slowest tier that they came from; None: none of them was stored."""
        tiers = {f.tier for f in self._prompts.values()} - {None}
        return "disk" if "disk" in tiers else next(iter(tiers), None)

    @property
    def saved_seconds(self) -> float:
        """The time that computing them took when they were stored."""
        return sum(f.saved_seconds for f in self._prompts.values())

    @property
    def prompt_use(self) -> PromptUse | None:
        """Where the tokens of the prompts came from; None before an answer has ended."""
        if not self._prompts:
            return None
        return PromptUse(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            stored_tokens=self.stored_tokens,
            disk_tokens=sum(f.disk_tokens for f in self._prompts.values()),
            saved_seconds=self.saved_seconds,
        )

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answers."""
        return sum(f.completion_tokens for f in self._finished)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the answers that are thinking."""
        return sum(f.reasoning_tokens for f in self._finished)

    @property
    def draft_tokens(self) -> int:
        """Tokens that were guessed."""
        return sum(f.timings.draft_tokens for f in self._finished)

    @property
    def draft_accepted(self) -> int:
        """Guessed tokens that were right."""
        return sum(f.timings.draft_accepted for f in self._finished)

    # Of several answers, which run side by side, the slowest counts.

    @property
    def queue_seconds(self) -> float:
        """From arrival to the start of prompt work."""
        return max((f.timings.queue_seconds for f in self._finished), default=0.0)

    @property
    def prompt_seconds(self) -> float:
        """From there to the first token."""
        return max((f.timings.prompt_seconds for f in self._finished), default=0.0)

    @property
    def generate_seconds(self) -> float:
        """From the first token to the last."""
        return max((f.timings.generate_seconds for f in self._finished), default=0.0)
