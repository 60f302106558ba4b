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
from services.puller.formats.chat_template import (
    detect_go_template_family,
    extract_jinja,
    find_written_tokens,
)
from services.puller.formats.gguf.description import check_gguf, describe_gguf
from services.puller.formats.gguf.header import GgufHeader, read_header
from services.puller.formats.lint import check_file_names, lint_gguf
from services.puller.formats.mlx.description import check_mlx, describe_mlx
from services.puller.formats.mlx.folder import MlxFolder
from services.shared.errors import InvalidModelFile
from services.shared.store.layout import checked_path
from services.shared.store.manifest import Capability, Description, FileRole, StoredFile
from services.shared.templates.renderer import TemplateRenderer
from services.shared.templates.traits import TemplateTraits

_MAX_TEMPLATE_BYTES = 1 << 20
_IN_A_FOLDER = {FileRole.MODEL, FileRole.CONFIG, FileRole.TOKENIZER, FileRole.TEMPLATE}


def describe_model(
    files: Sequence[StoredFile], path_for: Callable[[StoredFile], Path]
) -> Description:
    """Return the description of a model's files.

    Raises InvalidModelFile, with a message for people, when they must not be served. `path_for`
    returns the path of a file's bytes (`ModelStore.file_path`). A file of role TEMPLATE is Jinja
    when its path ends in .jinja or .json, else a Go template of Ollama.
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
        description = _describe_gguf(weights, files, path_for)
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
) -> Description:
    parts = read_gguf_parts([path_for(f) for f in weights])
    check_gguf(parts)
    for file in files:
        if file.role in (FileRole.PROJECTOR, FileRole.ADAPTER, FileRole.DRAFT):
            read_header(path_for(file))
    description = msgspec.structs.replace(describe_gguf(parts), warnings=tuple(lint_gguf(parts)))
    own = extract_jinja(parts[0].text("tokenizer.chat_template"))
    if own is not None:
        return with_template(description, own, "gguf")
    for file in files:
        if file.role is FileRole.TEMPLATE and file.size_bytes <= _MAX_TEMPLATE_BYTES:
            text = path_for(file).read_bytes().decode(errors="replace")
            return _with_template_file(description, file, text)
    return with_template(description, None, None)


def _describe_mlx(
    files: Sequence[StoredFile], path_for: Callable[[StoredFile], Path]
) -> Description:
    folder = MlxFolder({f.path: path_for(f) for f in files if f.role in _IN_A_FOLDER})
    check_mlx(folder)
    description = describe_mlx(folder)
    return with_template(description, description.chat_template, description.template_source)


def _with_template_file(description: Description, file: StoredFile, text: str) -> Description:
    if file.path.endswith((".jinja", ".json")):
        return with_template(description, extract_jinja(text), "file")
    family = detect_go_template_family(text)
    if family is None:
        return _with_warning(
            description,
            "The model's only chat template is a Go template of an unknown family, so the model"
            " only completes text; pull a GGUF of it from Hugging Face to chat with it.",
        )
    return _with_warning(
        with_template(description, family.jinja, f"{family.name} family"),
        f"The model's chat template is a Go template; the plain template of the {family.name}"
        " family replaces it, without tools.",
    )


def with_template(description: Description, source: str | None, origin: str | None) -> Description:
    """Add a template and its capabilities to a description; a warning when it does not work.

    Raises InvalidModelFile when it exceeds the limits of time and memory on a short conversation.
    """
    bare = msgspec.structs.replace(
        description, chat_template=None, template_source=None, user_defined_tokens=()
    )
    if Capability.COMPLETION not in description.capabilities:  # an embedding or ranking model
        return bare
    if source is None:
        return _with_warning(bare, "The model has no chat template, so it only completes text.")
    traits = _probe_traits(source, description)
    if traits.failure is not None:
        return _with_warning(
            bare,
            f"The chat template cannot be used ({traits.failure}), so the model only completes"
            " text; another build of the same model may have a working one.",
        )
    found = [Capability.COMPLETION, Capability.CHAT]
    found += [Capability.TOOLS] if traits.tools else []
    found += [Capability.THINKING] if traits.thinking else []
    return msgspec.structs.replace(
        description,
        chat_template=source,
        template_source=origin,
        capabilities=tuple(found),
        user_defined_tokens=find_written_tokens(description.user_defined_tokens, source),
    )


def _probe_traits(source: str, description: Description) -> TemplateTraits:
    template = _get_renderer().open(
        source, bos_token=description.bos_token, eos_token=description.eos_token
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
