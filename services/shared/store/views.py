"""Views: folders of links with real file names, for models that consist of several files.

llama.cpp finds the other parts of a split GGUF by their names; MLX reads a folder. A view is made
before its manifest, so a reader of a read-only mount does not have to make one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from services.shared.errors import InvalidModelFile
from services.shared.store import durable
from services.shared.store.layout import Layout, checked_path
from services.shared.store.manifest import FileRole, Manifest, StoredFile

_IN_A_FOLDER = {FileRole.MODEL, FileRole.TOKENIZER, FileRole.CONFIG, FileRole.TEMPLATE}


def needs_view(manifest: Manifest) -> bool:
    """Whether the engine needs real file names: for an MLX folder, or a GGUF of several parts."""
    return manifest.description.format == "mlx" or len(_model_files(manifest)) > 1


def links(manifest: Manifest) -> dict[str, StoredFile]:
    """The view's relative paths and their files. Raises InvalidModelFile when two paths collide.

    GGUF parts are put into one folder, whatever folders the repository had. An MLX model keeps
    its folders.
    """
    if manifest.description.format == "mlx":
        named = [(f.path, f) for f in manifest.files if f.role in _IN_A_FOLDER]
    else:
        named = [(f.path.rsplit("/", 1)[-1], f) for f in _model_files(manifest)]
    found = {checked_path(path): file for path, file in named}
    if len({path.casefold() for path in found}) != len(named):
        raise InvalidModelFile("two files of the model have names that differ in case only")
    return found


def entry_point(manifest: Manifest) -> str:
    """The path in the view that the engine opens: the first part, or "" for the folder itself."""
    return "" if manifest.description.format == "mlx" else min(links(manifest))


def make_view(layout: Layout, manifest: Manifest) -> None:
    """Make the view of a model, if it needs one.

    The folder is filled under a temporary name and then renamed, so that it becomes durable as a
    whole. Raises InvalidModelFile when two names collide.
    """
    view = layout.view(manifest.digest)
    if not needs_view(manifest) or view.is_dir():
        return
    durable.make_folder(layout.views, below=layout.root)
    making = durable.temporary_name(view)
    making.mkdir()
    try:
        for path, file in links(manifest).items():
            link = making / path
            link.parent.mkdir(parents=True, exist_ok=True)
            _link(layout.blob(file.digest), link, depth=path.count("/") + 2)
        for folder, _, _ in os.walk(making, topdown=False):
            durable.sync_folder(Path(folder))
        durable.move_folder(making, view)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _link(blob: Path, link: Path, *, depth: int) -> None:
    # Relative, so that the volume may be mounted anywhere. `depth` counts from `link`; the rename
    # of its folder does not change it.
    try:
        link.symlink_to(Path(*[".."] * depth, "blobs", blob.name))
    except OSError:  # a file system without symbolic links
        os.link(blob, link)


def _model_files(manifest: Manifest) -> list[StoredFile]:
    return [f for f in manifest.files if f.role is FileRole.MODEL]
