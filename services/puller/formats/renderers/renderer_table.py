"""Jinja templates for the renderers of Ollama: prompt formats that are in its program alone.

A template is put together of settings, macros that several families share, and the family's file.
The forms come from templates and pages that the makers published; the sentences that tell a model
how to call functions are ours. `docs/reference/chat-templates.md` has the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from services.puller.formats.engine_support import llama_cpp_architectures

_GEMMA4_ALIAS = "gemma4"
_GEMMA4_LARGE = 12_000_000_000  # parameters; Ollama resolves the alias by the same number


@dataclass(frozen=True, slots=True)
class RendererFormat:
    """One prompt format. `published`: the template or page that shows it."""

    file: str
    published: str
    architectures: tuple[str, ...]
    macros: tuple[str, ...] = ()
    settings: str = ""

    @property
    def loads(self) -> bool:
        """Whether the engine loads every architecture of these models."""
        return llama_cpp_architectures().issuperset(self.architectures)


_QWEN_VL = ("qwen3vl", "qwen3vlmoe")
_LFM2 = ("lfm2", "lfm2moe")
_GEMMA4_QUOTE = "{%- set quote = '<|\"|>' -%}"
_INSTRUCT = "{%- set is_thinking_model = false -%}"
_THINKING = "{%- set is_thinking_model = true -%}"

FORMATS: dict[str, RendererFormat] = {
    "deepseek3.1": RendererFormat(
        "deepseek3.1", "deepseek-ai-DeepSeek-V3.1; tools: its model card", ("deepseek2",)
    ),
    "functiongemma": RendererFormat(
        "functiongemma",
        "Google's page on the formatting of FunctionGemma",
        ("gemma3",),
        ("gemma_values",),
        "{%- set quote = '<escape>' -%}",
    ),
    "gemma4-large": RendererFormat(
        "gemma4",
        "google-gemma-4-31B-it",
        ("gemma4",),
        ("gemma_values",),
        _GEMMA4_QUOTE + "{%- set is_large = true -%}",
    ),
    "gemma4-small": RendererFormat(
        "gemma4",
        "google-gemma-4-31B-it; Google's page on Gemma 4",
        ("gemma4",),
        ("gemma_values",),
        _GEMMA4_QUOTE + "{%- set is_large = false -%}",
    ),
    "glm-4.7": RendererFormat(
        "glm-4.7", "GLM-4.7-Flash", ("deepseek2", "glm4moe"), ("thoughts", "key_calls")
    ),
    "lfm2": RendererFormat(
        "lfm2", "LFM2-8B-A1B; calls: its model card", _LFM2, ("thoughts",), _INSTRUCT
    ),
    "lfm2-thinking": RendererFormat("lfm2", "LFM2.5-8B-A1B", _LFM2, ("thoughts",), _THINKING),
    "nemotron-3-nano": RendererFormat(
        "nemotron-3",
        "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        ("nemotron_h_moe",),
        ("thoughts", "xml_calls"),
        "{%- set thought_end = '\\n</think>\\n' -%}",
    ),
    "nemotron-3.5-nano": RendererFormat(
        "nemotron-3",
        "Nemotron 3.5's own, in the tests of ollama/ollama",
        ("nemotron_h_moe",),
        ("thoughts", "xml_calls"),
        "{%- set thought_end = '</think>' -%}",
    ),
    "poolside-v1": RendererFormat(
        "laguna-v8", "poolside-Laguna-S-2.1", ("laguna",), ("thoughts", "key_calls")
    ),
    "qwen3-coder": RendererFormat(
        "qwen3-coder", "Qwen3-Coder", ("qwen3moe", "qwen3next"), ("xml_calls",)
    ),
    "qwen3-vl-instruct": RendererFormat(
        "qwen3-vl",
        "Qwen-Qwen3-0.6B, without thinking",
        _QWEN_VL,
        ("thoughts",),
        _INSTRUCT,
    ),
    "qwen3-vl-thinking": RendererFormat(
        "qwen3-vl",
        "Qwen-Qwen3-0.6B, always thinking",
        _QWEN_VL,
        ("thoughts",),
        _THINKING,
    ),
    "qwen3.5": RendererFormat(
        "qwen3.5", "Qwen3.5-4B", ("qwen35", "qwen35moe"), ("thoughts", "xml_calls")
    ),
}


def find_template(renderer: str, parameter_count: int | None = None) -> str | None:
    """The Jinja source for the name of a renderer; None if we have none.

    The count is that of the model: `gemma4` stands for a small and a large format.
    """
    if renderer == _GEMMA4_ALIAS:
        size = "large" if (parameter_count or 0) >= _GEMMA4_LARGE else "small"
        renderer = f"{_GEMMA4_ALIAS}-{size}"
    return _read_template(renderer) if renderer in FORMATS else None


@cache
def _read_template(renderer: str) -> str:
    found = FORMATS[renderer]
    folder = files("services.puller.formats.renderers")
    names = (*found.macros, found.file)
    texts = (folder.joinpath(f"{name}.jinja").read_text(encoding="utf-8") for name in names)
    return found.settings + "".join(text.rstrip("\n") for text in texts)
