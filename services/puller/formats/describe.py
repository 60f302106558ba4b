"""Describe verified files: every model passes this check before it is listed.

It reads headers and small texts but no weights, so it is fast even for a large model.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from services.puller.formats import engine_support
from services.puller.formats.chat_template import extract_jinja, find_written_tokens
from services.puller.formats.gguf.description import check_gguf, describe_gguf
from services.puller.formats.gguf.header import GgufHeader, read_header
from services.puller.formats.lint import check_file_names, lint_gguf
from services.puller.formats.mlx.description import check_mlx, describe_mlx
from services.puller.formats.mlx.folder import MlxFolder
from services.puller.formats.template_choice import (
    Candidate,
    choose,
    find_renderer,
    is_written_by_person,
    no_renderer,
    order,
    renderer_candidate,
)
from services.shared.errors import InvalidModelFile
from services.shared.model_name import ModelName
from services.shared.store.layout import checked_path
from services.shared.store.manifest import Capability, Description, FileRole, StoredFile
from services.shared.templates.renderer import TemplateRenderer
from services.shared.templates.traits import TemplateTraits

_MAX_TEMPLATE_BYTES = 1 << 20
_IN_A_FOLDER = {FileRole.MODEL, FileRole.CONFIG, FileRole.TOKENIZER, FileRole.TEMPLATE}


def describe_model(
    files: Sequence[StoredFile],
    path_for: Callable[[StoredFile], Path],
    *,
    name: ModelName | None = None,
) -> Description:
    """Return the description of a model's files.

    Raises InvalidModelFile, with a message for people, when they must not be served. `path_for`
    returns the path of a file's bytes (`ModelStore.file_path`). A file of role TEMPLATE is Jinja
    when its path ends in .jinja or .json, else a Go template of Ollama. The name tells who wrote
    the latter (`template_choice.py`).
    """
    check_file_names(file.path for file in files)
    for file in files:
        checked_path(file.path)
    weights = [f for f in files if f.role is FileRole.MODEL]
    if not weights or not all(f.size_bytes for f in weights):
        raise InvalidModelFile("the model has no weights")
    if any(f.path.endswith(".safetensors") for f in weights):
        description = _describe_mlx(files, path_for)
    else:
        description = _describe_gguf(weights, files, path_for, name)
    if any(f.role is FileRole.PROJECTOR for f in files):
        if FileRole.PROJECTOR in engine_support.EXTRA_ROLES:
            return _with_capability(description, Capability.VISION)
        return _with_warning(description, engine_support.TEXT_ONLY)
    return description


def read_gguf_parts(paths: Sequence[Path]) -> list[GgufHeader]:
    """Return the headers of a model's GGUF files, in the order of their part numbers."""
    headers = [read_header(path) for path in paths]
    return sorted(headers, key=lambda header: header.integer("split.no") or 0)


def _describe_gguf(
    weights: Sequence[StoredFile],
    files: Sequence[StoredFile],
    path_for: Callable[[StoredFile], Path],
    name: ModelName | None,
) -> Description:
    parts = read_gguf_parts([path_for(f) for f in weights])
    check_gguf(parts)
    for file in files:
        if file.role in (FileRole.PROJECTOR, FileRole.ADAPTER, FileRole.DRAFT):
            read_header(path_for(file))
    description = msgspec.structs.replace(describe_gguf(parts), warnings=tuple(lint_gguf(parts)))
    texts = _SmallTexts(files, path_for)
    jinja = _find_jinja(parts[0], texts)
    go = texts.find_go_template()
    manifest = texts.read(FileRole.REGISTRY_MANIFEST)
    is_own = is_written_by_person(name, manifest.encode() if manifest else None)
    renderer = find_renderer(texts.read(FileRole.CONFIG))
    ours = renderer_candidate(renderer, description.parameter_count)
    candidates = order(jinja=jinja, go=go, renderer=ours, is_own=is_own)
    described = _with_best(description, candidates)
    if renderer is None or described.capabilities != (Capability.COMPLETION,):
        return described
    return _with_warning(described, no_renderer(renderer))


def _find_jinja(header: GgufHeader, texts: _SmallTexts) -> Candidate | None:
    own = extract_jinja(header.text("tokenizer.chat_template"))
    if own is not None:
        return Candidate(own, "gguf")
    beside = texts.find_jinja()
    return Candidate(beside, "file") if beside is not None else None


class _SmallTexts:
    """The small text files of a model."""

    def __init__(self, files: Sequence[StoredFile], path_for: Callable[[StoredFile], Path]) -> None:
        self._files = [file for file in files if file.size_bytes <= _MAX_TEMPLATE_BYTES]
        self._path_for = path_for

    def read(self, role: FileRole) -> str | None:
        """The first file of a role."""
        return next((self._read(file) for file in self._files if file.role is role), None)

    def find_jinja(self) -> str | None:
        found = (self._read(file) for file in self._templates() if self._is_jinja(file))
        return next(filter(None, map(extract_jinja, found)), None)

    def find_go_template(self) -> Candidate | None:
        found = (self._read(file) for file in self._templates() if not self._is_jinja(file))
        return next((Candidate(text, "ollama", "go") for text in found if text.strip()), None)

    def _templates(self) -> list[StoredFile]:
        return [file for file in self._files if file.role is FileRole.TEMPLATE]

    def _is_jinja(self, file: StoredFile) -> bool:
        return file.path.endswith((".jinja", ".json"))

    def _read(self, file: StoredFile) -> str:
        return self._path_for(file).read_bytes().decode(errors="replace")


def _describe_mlx(
    files: Sequence[StoredFile], path_for: Callable[[StoredFile], Path]
) -> Description:
    folder = MlxFolder({f.path: path_for(f) for f in files if f.role in _IN_A_FOLDER})
    check_mlx(folder)
    description = describe_mlx(folder)
    source = description.chat_template
    found = [Candidate(source, description.template_source or "file")] if source else []
    return _with_best(description, found)


def _with_best(description: Description, candidates: Sequence[Candidate]) -> Description:
    """Add a template and its capabilities to a description; a warning when none works.

    Raises InvalidModelFile when one exceeds the limits of time and memory on a short conversation.
    """
    bare = msgspec.structs.replace(
        description, chat_template=None, template_source=None, user_defined_tokens=()
    )
    if Capability.COMPLETION not in description.capabilities:  # an embedding or ranking model
        return bare
    if not candidates:
        return _with_warning(bare, "The model has no chat template, so it only completes text.")
    choice = choose(candidates, lambda candidate: _probe_traits(candidate, description))
    best, traits = choice.candidate, choice.traits
    if best is None or traits is None:
        return _with_warning(
            bare,
            f"The chat template cannot be used ({choice.failures[0]}), so the model only completes"
            " text; another build of the same model may have a working one.",
        )
    if choice.failures:
        bare = _with_warning(
            bare,
            f"One of its chat templates cannot be used ({choice.failures[0]}), so another one is.",
        )
    found = [Capability.COMPLETION, Capability.CHAT]
    found += [Capability.TOOLS] if traits.tools else []
    found += [Capability.THINKING] if traits.thinking else []
    return msgspec.structs.replace(
        bare,
        chat_template=best.source,
        template_language=best.language,
        template_source=best.origin,
        capabilities=tuple(found),
        user_defined_tokens=find_written_tokens(description.user_defined_tokens, best.source),
    )


def _probe_traits(candidate: Candidate, description: Description) -> TemplateTraits:
    template = _get_renderer().open(
        candidate.source,
        bos_token=description.bos_token,
        eos_token=description.eos_token,
        language=candidate.language,
    )
    assert template.traits is not None
    return template.traits


@functools.cache
def _get_renderer() -> TemplateRenderer:
    """The renderer of this process, which pulls one model at a time."""
    renderer = TemplateRenderer(max_processes=1)
    atexit.register(renderer.close)
    return renderer


def _with_warning(description: Description, warning: str) -> Description:
    return msgspec.structs.replace(description, warnings=(*description.warnings, warning))


def _with_capability(description: Description, capability: Capability) -> Description:
    return msgspec.structs.replace(
        description, capabilities=(*description.capabilities, capability)
    )
