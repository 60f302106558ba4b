"""The marks that models write around what they think, found by their chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.api.parsing.holdback import SPACES

_MAX_TEMPLATES = 64


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """The texts around what a model thinks."""

    start: str
    end: str

    def is_opened_by(self, prompt: str) -> bool:
        """Whether an answer to this prompt begins inside the thinking."""
        return prompt.rstrip(SPACES).endswith(self.start.rstrip(SPACES))

    def is_open_in(self, answer: str) -> bool:
        """Whether the beginning of an answer, which the model continues, is unfinished thinking."""
        return answer.lstrip(SPACES).startswith(self.start) and self.end not in answer


# Those of a template are the first of which it writes the start or the end.
_MARKS: Sequence[ReasoningMarks] = (
    ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command R7B, Command A
    ReasoningMarks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ReasoningMarks("<|channel>thought\n", "<channel|>"),  # Gemma 4
    ReasoningMarks("<seed:think>", "</seed:think>"),  # Seed-OSS
    ReasoningMarks("<mm:think>", "</mm:think>"),  # MiniMax M3
    ReasoningMarks("◁think▷", "◁/think▷"),  # Kimi-VL
    ReasoningMarks("[THINK]", "[/THINK]"),  # Magistral, Ministral
    ReasoningMarks("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),  # Apriel
    ReasoningMarks("<think>", "</think>"),  # DeepSeek, Qwen, GLM, MiniMax M2, Nemotron and others
)


@lru_cache(_MAX_TEMPLATES)
def find_marks(template: str) -> ReasoningMarks | None:
    """The marks in the source of a chat template; None for a model that does not think."""
    # A template spells the line end of a mark as an escape.
    for marks in _MARKS:
        if marks.start.rstrip(SPACES) in template or marks.end in template:
            return marks
    return None
