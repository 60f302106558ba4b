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
    between: str = ""  # after the end: the beginning of another message
    header: str = ""  # before the text of an answer, not before a call

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them."""
        return self.start, self.end, self.between, self.header

    def is_opened_by(self, prompt: str) -> bool:
        """Whether an answer to this prompt begins inside the thinking."""
        return prompt.rstrip(SPACES).endswith(self.start.rstrip(SPACES))

    def is_open_in(self, answer: str) -> bool:
        """Whether the beginning of an answer, which the model continues, is unfinished thinking."""
        return answer.lstrip(SPACES).startswith(self.start) and self.end not in answer


_THINK = ReasoningMarks("<think>", "</think>")
# By texts of a template, for marks that it puts together from pieces, or of which others write a
# part. The first row is taken of whose texts it contains all.
_RULES: Sequence[tuple[tuple[str, ...], ReasoningMarks]] = (
    (
        ("<|open|>", "open_tag('think'"),  # Kimi K3
        ReasoningMarks(
            "<|open|>think<|sep|>", "<|close|>think<|sep|>", header="<|open|>response<|sep|>"
        ),
    ),
    (
        ("<think{}>", ":opensource"),  # Hunyuan 3
        ReasoningMarks("<think:opensource>", "</think:opensource>"),
    ),
    (
        ("<|begin|>assistant<|think|>",),  # Solar
        ReasoningMarks("<|think|>", "<|end|>", between="<|begin|>assistant", header="<|content|>"),
    ),
    (
        ("to=self<|message|>",),  # Muse
        ReasoningMarks(
            "to=self<|message|>",
            "<|eom|>",
            between="<|start|>assistant",
            header=" to=user<|message|>",
        ),
    ),
    (("<beginning_of_sentence>", "ai name="), _THINK),  # MiniMax M1, whose template has no marks
    (("You are MiMo",), _THINK),  # nor has that of MiMo
    (
        ("<|START_THINKING|>", "<|START_TEXT|>"),  # Command A
        ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>", header="<|START_TEXT|>"),
    ),
    (
        ("<|START_THINKING|>", "<|START_RESPONSE|>"),  # Command R7B
        ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>", header="<|START_RESPONSE|>"),
    ),
)
# Else those of a template are the first of which it writes the start or the end.
_MARKS: Sequence[ReasoningMarks] = (
    ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningMarks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ReasoningMarks("<|channel>thought\n", "<channel|>"),  # Gemma 4
    ReasoningMarks("<seed:think>", "</seed:think>"),  # Seed-OSS
    ReasoningMarks("<mm:think>", "</mm:think>"),  # MiniMax M3
    ReasoningMarks("◁think▷", "◁/think▷"),  # Kimi-VL
    ReasoningMarks("[THINK]", "[/THINK]"),  # Magistral, Ministral
    ReasoningMarks("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),  # Apriel
    _THINK,  # DeepSeek, Qwen, GLM, MiniMax M2, Nemotron and others
)


@lru_cache(_MAX_TEMPLATES)
def find_marks(template: str) -> ReasoningMarks | None:
    """The marks in the source of a chat template; None for a model that does not think."""
    for texts, marks in _RULES:
        if all(text in template for text in texts):
            return marks
    # A template spells the line end of a mark as an escape.
    for marks in _MARKS:
        if marks.start.rstrip(SPACES) in template or marks.end in template:
            return marks
    return None
