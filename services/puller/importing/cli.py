"""`python -m services.puller.importing.cli`: models of this machine into the store, a line each.

    importer (--any PATH | --ollama DIR | --hf DIR) [--name NAME] [--copy]

What `spindll import` runs. Needs neither Redis nor a running puller. Exit status 0 when everything
was imported, 1 when something was not, 130 on Ctrl-C: what was imported until then stays.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from services.puller.importing.other_stores import (
    Imported,
    import_hub_cache,
    import_ollama,
    import_path,
)
from services.shared.errors import InvalidModelFile, SpindllError
from services.shared.settings import SharedSettings, read_settings
from services.shared.store.model_store import ModelStore


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    asked = _parser().parse_args(arguments)
    store = ModelStore(read_settings(SharedSettings).models_dir)
    try:
        done = _import(store, asked)
    except SpindllError as error:
        print(f"not imported: {error.message}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        print(f"not imported: {error.strerror or 'a file is not usable'}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    if not done.names and not done.failures:
        print("there is no model to import", file=sys.stderr)  # noqa: T201
    return 0 if done.names and not done.failures else 1


def _import(store: ModelStore, asked: argparse.Namespace) -> Imported:
    link, tell = not asked.copy, partial(_tell, store)
    if asked.ollama is not None:
        return import_ollama(store, ollama_root(asked.ollama), link=link, told=tell)
    if asked.hf is not None:
        return import_hub_cache(store, hub_root(asked.hf), link=link, told=tell)
    return import_path(store, asked.any, asked.name, link=link, told=tell)


def ollama_root(folder: Path) -> Path:
    """Where an Ollama folder has its manifests: in itself, or in `models`. InvalidModelFile."""
    for root in (folder, folder / "models"):
        if (root / "manifests").is_dir() and (root / "blobs").is_dir():
            return root
    raise InvalidModelFile(f"{folder.name} is no Ollama store: it has no manifests and blobs")


def hub_root(folder: Path) -> Path:
    """Where a Hugging Face cache has its repositories: in itself, or in `hub`. InvalidModelFile."""
    for root in (folder, folder / "hub"):
        if any(root.glob("models--*")):
            return root
    raise InvalidModelFile(f"{folder.name} is no Hugging Face cache: it has no models--* folder")


def _tell(store: ModelStore, name: str, reason: str | None) -> None:
    if reason is not None:
        print(f"not imported: {name}: {reason}", file=sys.stderr)  # noqa: T201
        return
    manifest = store.resolve(name)
    how = "" if manifest.owned else ", sharing the bytes of the original"
    print(f"imported {manifest.name} ({manifest.size_bytes:,} bytes{how})")  # noqa: T201
    for warning in manifest.description.warnings:
        print(f"  warning: {warning}")  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spindll import", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--any", type=Path, metavar="PATH", help="a GGUF, or a folder of any kind")
    what.add_argument("--ollama", type=Path, metavar="DIR", help="an Ollama store")
    what.add_argument("--hf", type=Path, metavar="DIR", help="a Hugging Face cache")
    parser.add_argument("--name", help="what to call a single model; its file's name otherwise")
    parser.add_argument("--copy", action="store_true", help="do not share bytes with the original")
    return parser


if __name__ == "__main__":
    sys.exit(main())
