"""The table of families with a template of their own, in docs/reference/chat-templates.md.

    python -m tests.puller.formats.family_table

prints it. Families whose format only a renderer of Ollama has are in renderers/format_table.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.puller.formats.engine_support import llama_cpp_architectures
from services.puller.sources.republished import REPUBLISHED
from services.shared.templates.traits import TemplateTraits
from tests.api.parsing.tool_calls.round_trips import read_traits
from tests.api.prompts.template_cases import COLLECTION


@dataclass(frozen=True)
class Family:
    """`template` is that of the collection; `library` is the name in Ollama's library, if any."""

    name: str
    architectures: tuple[str, ...]
    template: str
    library: str | None = None

    @property
    def loads(self) -> str:
        if not llama_cpp_architectures().issuperset(self.architectures):
            return "no"
        return "yes, republished" if self.library in REPUBLISHED else "yes"


FAMILIES = (
    Family("Command R+", ("command-r",), "CohereForAI-c4ai-command-r-plus-tool_use"),
    Family("Command R7B", ("cohere2",), "CohereForAI-c4ai-command-r7b-12-2024-tool_use"),
    Family(
        "DeepSeek R1, distilled", ("llama", "qwen2"), "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"
    ),
    Family("Devstral Small", ("llama",), "unsloth-mistral-Devstral-Small-2507"),
    Family("Gemma 2", ("gemma2",), "google-gemma-2-2b-it"),
    Family("GLM 4.6", ("glm4moe",), "GLM-4.6"),
    Family("gpt-oss", ("gpt-oss",), "openai-gpt-oss-120b", "gpt-oss"),
    Family("Granite 3.3", ("granite",), "ibm-granite-granite-3.3-2B-Instruct"),
    Family("Granite 4.0", ("granite", "granitehybrid"), "ibm-granite-granite-4.0"),
    Family("Hermes 3", ("llama",), "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"),
    Family("Kimi K2", ("deepseek2",), "Kimi-K2-Instruct"),
    Family("Llama 3.1", ("llama",), "meta-llama-Llama-3.1-8B-Instruct"),
    Family("Llama 3.2", ("llama",), "meta-llama-Llama-3.2-3B-Instruct"),
    Family("Llama 3.3", ("llama",), "meta-llama-Llama-3.3-70B-Instruct"),
    Family("MiniMax M2", ("minimax-m2",), "MiniMax-M2"),
    Family("Ministral 3", ("mistral3",), "mistralai-Ministral-3-14B-Reasoning-2512"),
    Family("Mistral Nemo", ("llama",), "mistralai-Mistral-Nemo-Instruct-2407"),
    Family("Nemotron Nano v2", ("nemotron_h",), "NVIDIA-Nemotron-Nano-v2"),
    Family("Phi 3.5", ("phi3",), "microsoft-Phi-3.5-mini-instruct"),
    Family("Qwen 2.5", ("qwen2",), "Qwen-Qwen2.5-7B-Instruct"),
    Family("Qwen 3", ("qwen3", "qwen3moe"), "Qwen-Qwen3-0.6B"),
    Family("QwQ", ("qwen2",), "Qwen-QwQ-32B"),
    Family("Seed-OSS", ("seed_oss",), "ByteDance-Seed-OSS"),
    Family("SmolLM3", ("smollm3",), "HuggingFaceTB-SmolLM3-3B"),
)


def describe_tools(traits: TemplateTraits) -> str:
    """How much of a round trip the template writes itself."""
    if not traits.tools:
        return "as text"
    if not (traits.tool_calls and traits.tool_results):
        return "definitions"
    return "yes" if traits.several_calls else "one call a message"


def format_table() -> str:
    """The table as Markdown. Needs the collection of templates."""
    lines = [
        "| family | template, as in | tools | thinking | architectures | loads |",
        "|-|-|-|-|-|-|",
    ]
    for family in FAMILIES:
        traits = read_traits((COLLECTION / f"{family.template}.jinja").read_text())
        tools = describe_tools(traits)
        thinking = "yes" if traits.thinking else "no"
        architectures = ", ".join(family.architectures)
        lines.append(
            f"| {family.name} | {family.template} | {tools} | {thinking} | {architectures}"
            f" | {family.loads} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(format_table())
