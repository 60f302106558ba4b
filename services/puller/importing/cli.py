"""`python -m services.puller.importing.cli`: import models of this machine into the store.

    cli (--any PATH | --ollama DIR | --hf DIR) [--name NAME] [--copy]

`spindll import` runs this. It prints one line per model, and needs neither Redis nor a running
puller. The exit status is 0 when everything was imported, 1 when something was not, and 130 after
Ctrl-C; models that were imported before it stay.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from services.puller.importing.other_stores import (
    ImportResult,
    import_hub_cache,
    import_ollama,
    import_path,
)
from services.shared.errors import InvalidModelFile, SpindllError
from services.shared.settings import SharedSettings, read_settings
from services.shared.store.model_store import ModelStore


def main(arguments: list[str] | None = None) -> int:
    """Import what the arguments name, and return the exit status."""
    options = _build_parser().parse_args(arguments)
    store = ModelStore(read_settings(SharedSettings).models_dir)
    try:
        result = _import(store, options)
    except SpindllError as error:
        print(_printable(f"not imported: {error.message}"), file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        print(f"not imported: {error.strerror or 'a file is not usable'}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    if not result.names and not result.failures:
        print("there is no model to import", file=sys.stderr)  # noqa: T201
    return 0 if result.names and not result.failures else 1


def _import(store: ModelStore, options: argparse.Namespace) -> ImportResult:
    link, on_model = not options.copy, partial(_print_model, store)
    if options.ollama is not None:
        return import_ollama(store, ollama_root(options.ollama), link=link, on_model=on_model)
    if options.hf is not None:
        return import_hub_cache(store, hub_root(options.hf), link=link, on_model=on_model)
    return import_path(store, options.any, options.name, link=link, on_model=on_model)


def ollama_root(folder: Path) -> Path:
    """The folder with the manifests of an Ollama store: this one, or its `models`.

    Raises InvalidModelFile.
    """
    for root in (folder, folder / "models"):
        if (root / "manifests").is_dir() and (root / "blobs").is_dir():
            return root
    raise InvalidModelFile(f"{folder.name} is not an Ollama store: it has no manifests and blobs")


def hub_root(folder: Path) -> Path:
    """The folder with the repositories of a Hugging Face cache: this one, or its `hub`.

    Raises InvalidModelFile.
    """
    for root in (folder, folder / "hub"):
        if any(root.glob("models--*")):
            return root
    raise InvalidModelFile(f"{folder.name} is not a Hugging Face cache: it has no models--* folder")


def _print_model(store: ModelStore, name: str, reason: str | None) -> None:
    if reason is not None:
        print(_printable(f"not imported: {name}: {reason}"), file=sys.stderr)  # noqa: T201
        return
    manifest = store.resolve(name)
    sharing = "" if manifest.owned else ", sharing the bytes of the original"
    print(f"imported {manifest.name} ({manifest.size_bytes:,} bytes{sharing})")  # noqa: T201
    for warning in manifest.description.warnings:
        print(_printable(f"  warning: {warning}"))  # noqa: T201


def _printable(text: str) -> str:
    """Without control characters, which a terminal would obey: files have any name."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="services.puller.importing.cli",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--any", type=Path, metavar="PATH", help="a GGUF file, or a folder of any kind"
    )
    what.add_argument("--ollama", type=Path, metavar="DIR", help="an Ollama store")
    what.add_argument("--hf", type=Path, metavar="DIR", help="a Hugging Face cache")
    parser.add_argument("--name", help="the name of a single model; default: its file name")
    parser.add_argument("--copy", action="store_true", help="do not share bytes with the original")
    return parser


if __name__ == "__main__":
    sys.exit(main())
