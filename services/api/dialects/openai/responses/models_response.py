"""How a model looks over HTTP."""

from __future__ import annotations

from typing import Any

from services.shared.store.manifest import Manifest


def model_to_details(manifest: Manifest, context_length: int | None) -> dict[str, Any]:
    """`GET /v1/models/{name}`: the entry of the list, and what a pull read from the files."""
    description = manifest.description
    return {
        **model_to_dict(manifest, context_length),
        "base_model": description.base_model,
        "embedding_length": description.embedding_length,
        "template_source": description.template_source,
        "stop_tokens": list(description.stop_tokens),
        "parameters": manifest.params,
        "system": manifest.system,
        "license": manifest.license,
        "files": [
            {
                "role": file.role.value,
                "path": file.path,
                "size_bytes": file.size_bytes,
                "digest": file.digest,
            }
            for file in manifest.files
        ],
    }


def model_to_dict(manifest: Manifest, context_length: int | None) -> dict[str, Any]:
    """One entry of `GET /v1/models`: OpenAI's fields, and further facts about the model.

    `context_length`: what a request may have, which clients fill; the training length is more.
    """
    description = manifest.description
    return {
        "id": manifest.name,
        "object": "model",
        "created": int(manifest.created_at),
        "owned_by": "spindll",
        "name": manifest.name,
        "digest": manifest.digest,
        "source": manifest.source,
        "pulled_name": manifest.pulled_name,
        "version": manifest.version,
        "size_bytes": manifest.size_bytes,
        "format": description.format,
        "backend": description.backend,
        "architecture": description.architecture,
        "quantization": description.quantization,
        "parameter_count": description.parameter_count,
        "context_length": context_length,
        "max_model_len": context_length,  # vLLM's name for it
        "trained_context_length": description.context_length,
        "capabilities": [capability.value for capability in description.capabilities],
        "warnings": list(description.warnings),
    }
