"""What GGUF architectures are: encoders, parts of models, names that only Ollama uses.

`engine_support.py` says which architectures the engine loads.
"""

from __future__ import annotations

ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)

# Parts of models that come as GGUF files of their own.
PARTS = {
    "clip": "a vision projector",
    "dflash": "a draft head",
    "eagle3": "a draft head",
    "gemma4-assistant": "a draft head",
    "pockettts": "a speech decoder",
    "qwen3tts": "a speech decoder",
    "wavtokenizer-dec": "a speech decoder",
}

# Names of Ollama's own converter; llama/compat in ollama/ollama rewrites them while loading.
OLLAMA_NAMES = {
    "deepseekocr": "deepseek2-ocr",
    "glm4moelite": "deepseek2",
    "glmocr": "glm4",
    "gptoss": "gpt-oss",
    "olmo3": "olmo2",
    "qwen25vl": "qwen2vl",
}
