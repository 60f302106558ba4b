"""`list`, `rm` and `ps`: the stored models and the loaded models."""

from __future__ import annotations

from services.cli import formatting
from services.cli.api_client import ApiClient, JsonObject, model_path
from services.cli.connection import find_connection
from services.cli.paths import StackPaths
from services.cli.tables import new_table, print_table


def list_models(paths: StackPaths) -> None:
    """Print one line per stored model."""
    with ApiClient(find_connection(paths)) as api:
        models = api.get("/v1/models")["data"]
    table = new_table("MODEL", "SIZE", "ARCHITECTURE", "QUANTISATION", "CONTEXT", "CAN")
    for model in models:
        table.add_row(*format_row(model))
    print_table(table, "no models yet; `pull NAME` downloads one")


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
        table.add_row(*format_loaded_row(model))
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


def _capabilities(model: JsonObject) -> list[str]:
    found = model.get("capabilities") or []
    names = [name for name, has in found.items() if has] if isinstance(found, dict) else found
    return [str(name) for name in names]


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else formatting.format_size(size_bytes)
