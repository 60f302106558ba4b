"""Other programs' model folders on this machine: an Ollama store, a Hugging Face cache.

Both are read as they lie (ollama: manifests/<host>/<namespace>/<model>/<tag> beside blobs/;
huggingface_hub: models--<owner>--<repo>/snapshots/<commit> of links into blobs/) and never changed.
One model that cannot be taken in does not keep the others out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.puller.importing.local_files import (
    Found,
    default_name,
    files_in,
    import_file,
    import_folder,
    take_in,
)
from services.puller.sources.file_selection import Wanted, is_projector, label_of
from services.puller.sources.oci_manifest import files_of, parse_manifest
from services.shared.errors import InvalidModelFile, NotFound, SpindllError
from services.shared.model_name import HUB_HOST, ModelName
from services.shared.store.layout import blob_name
from services.shared.store.manifest import FileRole
from services.shared.store.model_store import ModelStore

_MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import: the names that are here now, and why others are not."""

    names: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)


Told = Callable[[str, str | None], None]  # a model's name, and why it was not imported


def _untold(name: str, reason: str | None) -> None:
    pass


def import_path(
    store: ModelStore,
    path: Path,
    name: str | None = None,
    *,
    link: bool = True,
    told: Told = _untold,
) -> Imported:
    """Take in whatever a path is: a GGUF, a model's folder, an Ollama store, a Hugging Face cache.

    `name` is for the first two; theirs is the default. `told` hears of each model when it is
    done. InvalidModelFile, NotFound.
    """
    if path.is_file():
        return _one(import_file(store, path, name or default_name(path), link=link).name, told)
    if not path.is_dir():
        raise NotFound(f"there is no file or folder {path.name}")
    if (path / "manifests").is_dir() and (path / "blobs").is_dir():
        return import_ollama(store, path, link=link, told=told)
    hub = path / "hub" if (path / "hub").is_dir() else path
    if any(hub.glob("models--*")):
        return import_hub_cache(store, hub, link=link, told=told)
    return _one(import_folder(store, path, name or default_name(path), link=link).name, told)


def import_ollama(
    store: ModelStore, root: Path, *, link: bool = True, told: Told = _untold
) -> Imported:
    """Every model of an Ollama store, of any registry and namespace, with all its layers."""
    found = {}
    for path in sorted((root / "manifests").glob("*/*/*/*")):
        host, namespace, model, tag = path.parts[-4:]
        if path.is_file() and not path.name.startswith("."):
            found[f"{host}/{namespace}/{model}:{tag}"] = path

    def files(name: str) -> list[Found]:
        return _ollama_files(root, found[name])

    return _import_each(store, found, files, source="an Ollama store", link=link, told=told)


def import_hub_cache(
    store: ModelStore, root: Path, *, link: bool = True, told: Told = _untold
) -> Imported:
    """Every whole model of the commit that `main` was when the cache last saw it."""
    found: dict[str, tuple[Path, Wanted]] = {}
    for folder in sorted(root.glob("models--*--*")):
        # A repository may have `--` in its name, an owner not.
        owner, _, repo = folder.name.removeprefix("models--").partition("--")
        snapshot = _snapshot(folder)
        if snapshot is not None:
            found |= {
                f"{HUB_HOST}/{owner}/{repo}{suffix}": (snapshot, wanted)
                for suffix, wanted in _variants(snapshot)
            }

    def files(name: str) -> list[Found]:
        return files_in(*found[name])

    return _import_each(store, found, files, source="a Hugging Face cache", link=link, told=told)


def _import_each(
    store: ModelStore,
    names: Mapping[str, object],
    files: Callable[[str], list[Found]],
    *,
    source: str,
    link: bool,
    told: Told,
) -> Imported:
    done, failures = [], {}
    for name in names:
        try:
            found = files(name)
            manifest = take_in(store, found, name, source=f"import of {source}", link=link)
        except (SpindllError, OSError) as error:
            reason = error.message if isinstance(error, SpindllError) else "a file is not readable"
            failures[name] = reason
            told(name, reason)
            continue
        done.append(manifest.name)
        told(manifest.name, None)
    return Imported(tuple(done), failures)


def _ollama_files(root: Path, path: Path) -> list[Found]:
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise InvalidModelFile("the manifest is too large")
    manifest = parse_manifest(path.read_bytes())
    found = [Found(FileRole.REGISTRY_MANIFEST, "manifest.json", path)]
    layers = [(f.role, f.path, f.digest) for f in files_of(manifest, "", None)]
    if manifest.config is not None:
        layers.append((FileRole.CONFIG, "config.json", manifest.config.digest))
    for role, name, digest in layers:
        if digest is None:
            raise InvalidModelFile("a layer of the manifest has no digest")
        blob = root / "blobs" / blob_name(digest)
        if not blob.is_file():
            raise InvalidModelFile(f"the {role.value} of the model is not in the Ollama store")
        found.append(Found(role, name, blob, digest))
    return found


def _snapshot(folder: Path) -> Path | None:
    try:
        commit = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    named = folder / "snapshots" / (Path(commit).name or "none")
    if named.is_dir():
        return named
    others = [p for p in (folder / "snapshots").glob("*") if p.is_dir()]
    return max(others, key=lambda p: (p.stat().st_mtime, p.name), default=None)


def _variants(snapshot: Path) -> Iterator[tuple[str, Wanted]]:
    """Each model of a snapshot: (what follows the repository in its name, how to choose it)."""
    paths = [p.relative_to(snapshot).as_posix() for p in sorted(snapshot.rglob("*.gguf"))]
    ggufs = [p for p in paths if not is_projector(p) and "imatrix" not in p.lower()]
    first_parts = [p for p in ggufs if "-of-" not in p or "-00001-of-" in p]
    labels = [label_of(p) for p in first_parts]
    for path, label in zip(first_parts, labels, strict=True):
        has_own_label = label is not None and labels.count(label) == 1
        yield (f":{label.upper()}" if has_own_label and label else f"/{path}"), Wanted(file=path)
    if not ggufs and any(snapshot.glob("*.safetensors")):
        yield "", Wanted(format="mlx")


def _one(name: str, told: Told) -> Imported:
    told(name, None)
    return Imported((str(ModelName.parse(name)),))
