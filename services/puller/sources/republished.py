"""Models of Ollama's library whose files llama.cpp cannot load, and where loadable ones are.

These were published for Ollama's own engine, which wrote headers of its own. Ollama's developers
have published the same models again with headers that llama.cpp loads, first in an account of one
of them (`compatModelRedirects` in ollama's server/), later as tags that end in `-llamacpp`
(ollama/ollama#16590). Whether a replacement exists is asked of the registry each time; without one
the header check refuses the model in words. Not run against the real registry. Pure.
"""

from __future__ import annotations

from services.shared.model_name import LIBRARY, OLLAMA_HOST, ModelName

_REPUBLISHED_BY = "dhiltgen"
_TAG_SUFFIX = "-llamacpp"
REPUBLISHED = frozenset(
    {
        "deepseek-ocr",
        "embeddinggemma",
        "gemma3n",
        "gemma4",
        "glm-4.7-flash",
        "glm-ocr",
        "gpt-oss",
        "qwen2.5vl",
        "qwen3-vl",
        "snowflake-arctic-embed2",
    }
)


def list_replacements(name: ModelName) -> tuple[tuple[str, str], ...]:
    """Repositories and tags to try before a name of the library, the best first; often none."""
    is_library = name.host == OLLAMA_HOST and name.namespace == LIBRARY
    if not is_library or name.model.lower() not in REPUBLISHED or name.tag.endswith(_TAG_SUFFIX):
        return ()
    return (
        (name.repo, f"{name.tag}{_TAG_SUFFIX}"),
        (f"{_REPUBLISHED_BY}/{name.model}", name.tag),
    )
