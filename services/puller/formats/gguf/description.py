"""Check that llama.cpp can load a GGUF model, and describe it, from its header alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from services.puller.formats.architectures import ENCODERS, OLLAMA_NAMES, PARTS
from services.puller.formats.engine_support import llama_cpp_architectures
from services.puller.formats.gguf.header import GgufHeader
from services.puller.formats.gguf.tokenizer import check_tokenizer, read_special_tokens
from services.puller.formats.gguf.types import FILE_TYPES
from services.shared.errors import InvalidModelFile
from services.shared.store.manifest import Capability, Description

GGUF_INSTEAD = "pull a GGUF of it from Hugging Face instead (owner/repo:Q4_K_M)"
_TOWERS = ("v.", "mm.", "a.", "vision_tower.")
_GUESSED = 1024  # LLAMA_FTYPE_GUESSED, a flag on the file type
_POOLING_RANK = 4  # llama.h's LLAMA_POOLING_TYPE_RANK
# llama.cpp's LLAMA_MAX_LAYERS, and limits beyond those of any real model.
_MAX_BLOCKS = 512
_MAX_CONTEXT = 1 << 31
_MAX_WIDTH = 1 << 20


def check_gguf(parts: Sequence[GgufHeader]) -> None:
    """Raise InvalidModelFile unless the parts, in order, are a complete, loadable model."""
    _check_kind(parts[0])
    _check_parts(parts)
    if not any(part.tensors for part in parts):
        raise InvalidModelFile("the file holds a vocabulary but no weights")
    for part in parts:
        check_first_bytes(part)


def check_first_bytes(part: GgufHeader) -> None:
    """Raise InvalidModelFile when the header of one file alone rules out that the model loads."""
    _check_towers(part)
    if part.integer("split.no"):  # only the first part describes the model
        return
    _check_kind(part)
    _check_numbers(part)
    if part.text("tokenizer.ggml.model") != "no_vocab":
        check_tokenizer(part)


def check_part_count(part: GgufHeader, present: int) -> None:
    """Raise InvalidModelFile unless the model has as many parts as its header says."""
    claimed = part.integer("split.count") or 1
    if claimed != present:
        raise InvalidModelFile(
            f"the model has {claimed} part{'s' if claimed > 1 else ''}, but {present}"
            f" {'are' if present > 1 else 'is'} present"
        )


def describe_gguf(parts: Sequence[GgufHeader]) -> Description:
    """Describe a model without its template and chat capabilities, which `describe.py` adds."""
    first = parts[0]
    architecture = first.architecture
    tokens = read_special_tokens(first)
    name = first.text("general.name")
    return Description(
        format="gguf",
        architecture=architecture,
        parameter_count=sum(t.elements for part in parts for t in part.tensors),
        context_length=first.integer(f"{architecture}.context_length"),
        embedding_length=first.integer(f"{architecture}.embedding_length"),
        quantization=_find_quantization(parts),
        base_model=name.strip().replace(" ", "-")[:200] if name and name.strip() else None,
        capabilities=_find_capabilities(first),
        bos_token=tokens.bos,
        eos_token=tokens.eos,
        add_bos=tokens.add_bos,
        control_tokens=tokens.control,
        user_defined_tokens=tokens.user_defined,
        stop_tokens=tokens.ending,
    )


def describe_part(header: GgufHeader) -> str | None:
    """Name the kind of a GGUF that is not a model by itself ("a vision projector"), or None."""
    kind = header.text("general.type")
    if kind == "adapter":
        return "a LoRA adapter"
    if kind == "imatrix" or header.text("general.architecture") == "imatrix":
        return "an importance matrix"
    if kind == "mmproj":
        return PARTS["clip"]
    return PARTS.get(header.architecture)


def _check_kind(header: GgufHeader) -> None:
    architecture = header.architecture
    if (part := describe_part(header)) is not None:
        raise InvalidModelFile(f"the file is {part}, not a model by itself")
    if architecture in OLLAMA_NAMES:
        raise InvalidModelFile(
            f"the file is made for Ollama's own engine (it names the architecture {architecture},"
            f" not {OLLAMA_NAMES[architecture]}); {GGUF_INSTEAD}"
        )
    if architecture not in llama_cpp_architectures():
        raise InvalidModelFile(
            f"the engine does not know the architecture {architecture[:80]!r};"
            " a newer version of Spindll may"
        )


def _check_towers(part: GgufHeader) -> None:
    # llama.cpp creates the tensors that it knows, and refuses a file with more of them.
    if any(tensor.name.startswith(_TOWERS) for tensor in part.tensors):
        raise InvalidModelFile(
            "the file is made for Ollama's own engine (it contains the vision or audio part"
            f" together with the model); {GGUF_INSTEAD}"
        )


def _check_parts(parts: Sequence[GgufHeader]) -> None:
    check_part_count(parts[0], len(parts))
    claimed = len(parts)
    if claimed == 1:
        return
    numbers = [part.integer("split.no") for part in parts]
    if numbers != list(range(claimed)):
        raise InvalidModelFile("the part numbers of the model are not complete and in order")
    total = parts[0].integer("split.tensors.count")
    if total is not None and total != sum(len(part.tensors) for part in parts):
        raise InvalidModelFile("the parts of the model do not belong together")


def _check_numbers(header: GgufHeader) -> None:
    limits = {
        "block_count": _MAX_BLOCKS,
        "context_length": _MAX_CONTEXT,
        "embedding_length": _MAX_WIDTH,
    }
    for key, limit in limits.items():
        value = header.integer(f"{header.architecture}.{key}")
        if value is None:
            raise InvalidModelFile(f"the header is incomplete: it has no {key}")
        if not 0 < value <= limit:
            raise InvalidModelFile(f"the header is damaged: its {key} is {value}")


def _find_quantization(parts: Sequence[GgufHeader]) -> str | None:
    number = parts[0].integer("general.file_type")
    if number is not None and (known := FILE_TYPES.get(number & ~_GUESSED)):
        return known
    sizes: Counter[str] = Counter()
    for part in parts:
        for tensor in part.tensors:
            if len(tensor.shape) > 1:
                sizes[tensor.type_name] += tensor.size_bytes
    return sizes.most_common(1)[0][0] if sizes else None


def _find_capabilities(header: GgufHeader) -> tuple[Capability, ...]:
    pooling = header.integer(f"{header.architecture}.pooling_type") or 0
    if pooling == _POOLING_RANK:
        return (Capability.RERANK,)
    if pooling or header.architecture in ENCODERS:
        return (Capability.EMBEDDINGS,)
    return (Capability.COMPLETION,)
