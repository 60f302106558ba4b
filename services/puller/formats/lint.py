"""Check a downloaded model before it is listed: refuse program code, warn about likely failures.

Files that contain code are refused (InvalidModelFile). A file that llama.cpp may not load gets a
warning, and each warning says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from services.puller.formats.gguf.description import GGUF_INSTEAD
from services.puller.formats.gguf.header import GgufHeader
from services.shared.errors import InvalidModelFile

# Pickles can run code when they are opened.
_CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".h5", ".msgpack")

_Marker = Callable[[GgufHeader], bool]


def check_file_names(paths: Iterable[str]) -> None:
    """Refuse files that are, or contain, code."""
    for path in paths:
        name = path.rsplit("/", 1)[-1].lower()
        if name.endswith(_CODE):
            raise InvalidModelFile("the model comes with program code; such models are refused")
        if name.endswith(_PICKLES):
            raise InvalidModelFile(
                "the model comes with pickled weights, which can run code; only GGUF and"
                " safetensors are accepted"
            )


def lint_gguf(parts: Sequence[GgufHeader]) -> list[str]:
    """Return warnings about what llama.cpp may not load, each with a remedy."""
    first = parts[0]
    architecture = first.architecture
    warnings = []
    if any(t.name.startswith("mtp.") for part in parts for t in part.tensors):
        warnings.append(_made_for_ollama("it contains a draft head together with the model"))
    elif any(marker(first) for marker in _MARKERS.get(architecture, ())):
        warnings.append(
            _made_for_ollama(f"its {architecture} header is not what llama.cpp expects")
        )
    if first.text("tokenizer.ggml.model") == "gpt2" and not first.text("tokenizer.ggml.pre"):
        warnings.append(
            "The file does not name its pre-tokenizer (an old conversion), so answers may be worse"
            f" than they should be; {GGUF_INSTEAD}."
        )
    return warnings + _vocabulary_warnings(parts)


def _made_for_ollama(sign: str) -> str:
    return (
        f"The file seems to be made for Ollama's own engine ({sign}) and may not load here;"
        f" {GGUF_INSTEAD}."
    )


def _lacks(key: str) -> _Marker:
    return lambda header: f"{header.architecture}.{key}" not in header.metadata


def _is_array(key: str) -> _Marker:
    return lambda header: header.numbers(f"{header.architecture}.{key}") is not None


# What llama/compat in ollama/ollama repairs while loading.
_MARKERS: dict[str, tuple[_Marker, ...]] = {
    "gemma3": (
        _lacks("attention.layer_norm_rms_epsilon"),
        lambda header: any(t.name == "dense.0.weight" for t in header.tensors),
    ),
    "gemma4": (lambda header: header.text("tokenizer.ggml.model") == "llama",),
    "lfm2": (_lacks("feed_forward_length"),),
    "qwen35": (_is_array("attention.head_count_kv"),),
    "qwen35moe": (_is_array("attention.head_count_kv"),),
    "qwen3next": (_is_array("attention.head_count_kv"),),
    "qwen3vl": (_lacks("n_deepstack_layers"),),
    "qwen3vlmoe": (_lacks("n_deepstack_layers"),),
}


def _vocabulary_warnings(parts: Sequence[GgufHeader]) -> list[str]:
    tokens = parts[0].strings("tokenizer.ggml.tokens")
    embedding = next((t for p in parts for t in p.tensors if t.name == "token_embd.weight"), None)
    if tokens is None or embedding is None or len(embedding.shape) != 2:
        return []
    rows = embedding.shape[1]
    if rows == len(tokens):
        return []
    counts = f"{len(tokens)} tokens but {rows} embedding rows"
    return [f"The model has {counts}, so it may not load; {GGUF_INSTEAD}."]
