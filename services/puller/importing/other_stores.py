"""Import the models of other programs on this machine: an Ollama store, a Hugging Face cache.

Both are only read. Ollama keeps manifests/<host>/<namespace>/<model>/<tag> beside blobs/.
huggingface_hub keeps models--<owner>--<repo>/snapshots/<commit> with links into blobs/. A model
that cannot be imported does not stop the import of the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.puller.importing.local_files import (
    LocalFile,
    default_model_name,
    import_file,
    import_folder,
    import_model,
    select_local_files,
)
from services.puller.sources.file_selection import (
    SelectionCriteria,
    is_projector,
    parse_quantization,
)
from services.puller.sources.oci_manifest import build_remote_files, parse_manifest
from services.shared.errors import InvalidModelFile, NotFound, SpindllError
from services.shared.model_name import HUB_HOST, ModelName
from services.shared.store.layout import blob_name
from services.shared.store.manifest import FileRole
from services.shared.store.model_store import ModelStore

_MAX_MANIFEST_BYTES = 4 << 20
_MAX_COMMIT_BYTES = 100
_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The names of the imported models, and the reason of each failure by model name."""

    names: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)


ModelCallback = Callable[
    [str, str | None], None
]  # a model's name, and the reason when it was not imported


def _ignore_model(name: str, reason: str | None) -> None:
    pass


def import_path(
    store: ModelStore,
    path: Path,
    name: str | None = None,
    *,
    link: bool = True,
    on_model: ModelCallback = _ignore_model,
) -> ImportResult:
    """Import a path: a GGUF file, a model's folder, or a folder of models of another program.

    That is an Ollama store, a Hugging Face cache, or `owner/repo` folders as LM Studio keeps them.

    `name` applies to the first two; the default is the name of the file or folder. `on_model` is
    called for each model when it is done. Raises InvalidModelFile or NotFound.
    """
    if path.is_file():
        return _single_result(
            import_file(store, path, name or default_model_name(path), link=link).name, on_model
        )
    if not path.is_dir():
        raise NotFound(f"there is no file or folder {path.name}")
    if (path / "manifests").is_dir() and (path / "blobs").is_dir():
        return import_ollama(store, path, link=link, on_model=on_model)
    hub = path / "hub" if (path / "hub").is_dir() else path
    if any(hub.glob("models--*")):
        return import_hub_cache(store, hub, link=link, on_model=on_model)
    if repositories := _find_repositories(path):
        return _import_repositories(
            store, repositories, source="local models", link=link, on_model=on_model
        )
    return _single_result(
        import_folder(store, path, name or default_model_name(path), link=link).name, on_model
    )


def import_ollama(
    store: ModelStore, root: Path, *, link: bool = True, on_model: ModelCallback = _ignore_model
) -> ImportResult:
    """Import every model of an Ollama store with all its layers, whatever its registry."""
    manifests = {}
    for path in sorted((root / "manifests").glob("*/*/*/*")):
        host, namespace, model, tag = path.parts[-4:]
        if path.is_file() and not path.name.startswith("."):
            manifests[f"{host}/{namespace}/{model}:{tag}"] = path

    def find_files(name: str) -> list[LocalFile]:
        return _find_ollama_files(root, manifests[name])

    return _import_each(
        store, manifests, find_files, source="an Ollama store", link=link, on_model=on_model
    )


def import_hub_cache(
    store: ModelStore, root: Path, *, link: bool = True, on_model: ModelCallback = _ignore_model
) -> ImportResult:
    """Import every complete model of the cached `main` commit, else of the newest snapshot."""
    repositories: dict[str, Path] = {}
    for folder in sorted(root.glob("models--*--*")):
        # The name of a repository may contain `--`, the name of an owner may not.
        owner, _, repo = folder.name.removeprefix("models--").partition("--")
        snapshot = _find_snapshot(folder)
        if snapshot is not None:
            repositories[f"{owner}/{repo}"] = snapshot
    return _import_repositories(
        store, repositories, source="a Hugging Face cache", link=link, on_model=on_model
    )


def _import_repositories(
    store: ModelStore,
    repositories: Mapping[str, Path],
    *,
    source: str,
    link: bool,
    on_model: ModelCallback,
) -> ImportResult:
    """Import every model of folders that hold the files of hub repositories."""
    models = {
        f"{HUB_HOST}/{repo}{suffix}": (folder, criteria)
        for repo, folder in repositories.items()
        for suffix, criteria in _find_models(folder)
    }

    def find_files(name: str) -> list[LocalFile]:
        return select_local_files(*models[name])

    return _import_each(store, models, find_files, source=source, link=link, on_model=on_model)


def _find_repositories(path: Path) -> dict[str, Path]:
    """The folders `owner/repo` with GGUF files; none when the path itself holds a model."""
    if any(path.glob("*.gguf")) or any(path.glob("*/*.gguf")):
        return {}
    return {
        f"{folder.parent.name}/{folder.name}": folder
        for folder in sorted(path.glob("*/*"))
        if folder.is_dir() and any(folder.rglob("*.gguf"))
    }


def _import_each(
    store: ModelStore,
    names: Mapping[str, object],
    find_files: Callable[[str], list[LocalFile]],
    *,
    source: str,
    link: bool,
    on_model: ModelCallback,
) -> ImportResult:
    imported, failures = [], {}
    for name in names:
        try:
            files = find_files(name)
            manifest = import_model(store, files, name, source=f"import of {source}", link=link)
        except (SpindllError, OSError) as error:
            reason = error.message if isinstance(error, SpindllError) else "a file is not readable"
            failures[name] = reason
            on_model(name, reason)
            continue
        imported.append(manifest.name)
        on_model(manifest.name, None)
    return ImportResult(tuple(imported), failures)


def _find_ollama_files(root: Path, path: Path) -> list[LocalFile]:
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise InvalidModelFile("the manifest is too large")
    manifest = parse_manifest(path.read_bytes())
    files = [LocalFile(FileRole.REGISTRY_MANIFEST, "manifest.json", path)]
    layers = [(f.role, f.path, f.digest) for f in build_remote_files(manifest, "", None)]
    if manifest.config is not None:
        layers.append((FileRole.CONFIG, "config.json", manifest.config.digest))
    for role, name, digest in layers:
        if digest is None:
            raise InvalidModelFile("a layer of the manifest has no digest")
        blob = root / "blobs" / blob_name(digest)
        if not blob.is_file():
            raise InvalidModelFile(f"the {role.value} of the model is not in the Ollama store")
        files.append(LocalFile(role, name, blob, digest))
    return files


def _find_snapshot(folder: Path) -> Path | None:
    commit = _read_main_commit(folder)
    if commit is not None and (named := folder / "snapshots" / commit).is_dir():
        return named
    others = [p for p in (folder / "snapshots").glob("*") if p.is_dir()]
    return max(others, key=lambda p: (p.stat().st_mtime, p.name), default=None)


def _read_main_commit(folder: Path) -> str | None:
    path = folder / "refs" / "main"
    try:
        if not path.is_file():  # a pipe would not answer
            return None
        with path.open("rb") as file:
            text = file.read(_MAX_COMMIT_BYTES).decode(errors="replace").strip()
    except OSError:
        return None
    return text if _COMMIT.fullmatch(text) else None


def _find_models(snapshot: Path) -> Iterator[tuple[str, SelectionCriteria]]:
    """Each model of a snapshot: the suffix of its name, and the criteria that select its files."""
    paths = [p.relative_to(snapshot).as_posix() for p in sorted(snapshot.rglob("*.gguf"))]
    ggufs = [p for p in paths if not is_projector(p) and "imatrix" not in p.lower()]
    first_parts = [p for p in ggufs if "-of-" not in p or "-00001-of-" in p]
    labels = [parse_quantization(p) for p in first_parts]
    for path, label in zip(first_parts, labels, strict=True):
        has_own_label = label is not None and labels.count(label) == 1
        yield (
            (f":{label.upper()}" if has_own_label and label else f"/{path}"),
            SelectionCriteria(file=path),
        )
    if not ggufs and any(snapshot.glob("*.safetensors")):
        yield "", SelectionCriteria(format="mlx")


def _single_result(name: str, on_model: ModelCallback) -> ImportResult:
    on_model(name, None)
    return ImportResult((str(ModelName.parse(name)),))
