"""`list`, `show`, `cp`, `rm` and `ps`: the stored models and the loaded models."""

from __future__ import annotations

import json

from services.cli import formatting
from services.cli.api_client import ApiClient, JsonObject, model_path
from services.cli.connection import find_connection
from services.cli.paths import StackPaths
from services.cli.tables import add_row, new_table, print_table

_LOADED_KINDS = {"llamacpp": "a GGUF file", "mlx": "a folder of safetensors"}


def list_models(paths: StackPaths) -> None:
    """Print one line per stored model."""
    with ApiClient(find_connection(paths)) as api:
        models = api.get("/v1/models")["data"]
    table = new_table("MODEL", "SIZE", "ARCHITECTURE", "QUANTISATION", "CONTEXT", "CAN")
    for model in models:
        add_row(table, format_row(model))
    print_table(table, "no models yet; `pull NAME` downloads one")


def show(paths: StackPaths, name: str) -> None:
    """Print what is known about a model. Raises CommandError when it does not exist."""
    with ApiClient(find_connection(paths)) as api:
        model = api.get(model_path(name))
    for line in format_details(model):
        print(formatting.printable(line))


def copy(paths: StackPaths, source: str, target: str) -> None:
    """Give a model another name too. Raises CommandError when that is another model's."""
    with ApiClient(find_connection(paths)) as api:
        copied = api.post(f"{model_path(source)}/copy", {"target": target})
    print(f"{copied['id']} is a copy of {copied['copied_from']}")


def remove(paths: StackPaths, name: str) -> None:
    """Delete a model. Raises CommandError when it does not exist or is in use."""
    with ApiClient(find_connection(paths)) as api:
        freed = api.delete(model_path(name)).get("freed_bytes")
    print(
        f"deleted {name}"
        + (f", {formatting.format_size(freed)} freed" if freed is not None else "")
    )


def loaded(paths: StackPaths) -> None:
    """Print one line per loaded model."""
    with ApiClient(find_connection(paths)) as api:
        models = (api.get("/v1/status").get("engine") or {}).get("models", [])
    table = new_table("MODEL", "STATE", "MEMORY", "CONTEXT", "RUNNING", "QUEUED")
    for model in models:
        add_row(table, format_loaded_row(model))
    print_table(table, "no model is loaded")


def format_row(model: JsonObject) -> list[str]:
    """The cells of a stored model; a missing value is a dash."""
    return [
        str(model["id"]),
        _size(model.get("size_bytes")),
        str(model.get("architecture") or "-"),
        str(model.get("quantization") or "-"),
        str(model.get("context_length") or "-"),
        ", ".join(_capabilities(model)) or "-",
    ]


def format_details(model: JsonObject) -> list[str]:
    """The lines about a model: warnings, facts, then its parts; unknown facts are left out."""
    parameters = model.get("parameters") or {}
    facts = [
        ("model", model["id"]),
        ("digest", model.get("digest")),
        ("source", model.get("source")),
        ("version", model.get("version")),
        ("size", _size(model.get("size_bytes"))),
        ("format", model.get("format")),
        ("served by", _explain_backend(model)),
        ("architecture", model.get("architecture")),
        ("base model", model.get("base_model")),
        ("parameters", _count(model.get("parameter_count"))),
        ("quantisation", model.get("quantization")),
        ("context", model.get("context_length")),
        ("trained context", model.get("trained_context_length")),
        ("embedding length", model.get("embedding_length")),
        ("can", ", ".join(_capabilities(model))),
        ("prompt format", model.get("template_source")),
        ("stop tokens", " ".join(model.get("stop_tokens") or ())),
        *((f"option {name}", json.dumps(value)) for name, value in sorted(parameters.items())),
        ("system", _first_line(model.get("system"))),
        ("license", _first_line(model.get("license"))),
    ]
    return [
        *(f"warning: {warning}" for warning in model.get("warnings") or ()),
        *(f"{label:<20}{value}" for label, value in facts if value),
        *(
            f"{'file':<20}{file['path']}, {file['role']}, {_size(file['size_bytes'])}"
            for file in model.get("files") or ()
        ),
    ]


def format_loaded_row(model: JsonObject) -> list[str]:
    """The cells of a loaded model; a missing value is a dash."""
    return [
        str(model["name"]),
        str(model.get("state") or "-"),
        _size(model.get("memory_bytes")),
        str(model.get("context_length") or "-"),
        str(model.get("running", "-")),
        str(model.get("queued", "-")),
    ]


def _explain_backend(model: JsonObject) -> str | None:
    """The backend, and why it is this one."""
    backend = model.get("backend")
    kind = _LOADED_KINDS.get(str(backend))
    return f"{backend}, because the model is {kind}" if kind else backend


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _first_line(text: str | None) -> str | None:
    lines = (text or "").strip().splitlines()
    return None if not lines else lines[0][:100] + (" …" if len(lines) > 1 else "")


def _capabilities(model: JsonObject) -> list[str]:
    found = model.get("capabilities") or []
    names = [name for name, has in found.items() if has] if isinstance(found, dict) else found
    return [str(name) for name in names]


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else formatting.format_size(size_bytes)
