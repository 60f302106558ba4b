"""From verified files to a description: the one gate a model passes before it is listed.

Reads headers and small texts only, never weights, so it costs milliseconds whatever the size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from services.puller.formats.chat_template import family_of_go_template, jinja_source
from services.puller.formats.gguf.description import check_gguf, describe_gguf
from services.puller.formats.gguf.header import Header, read_header
from services.puller.formats.lint import check_file_names, gguf_warnings
from services.puller.formats.mlx.description import check_mlx, describe_mlx
from services.puller.formats.mlx.folder import MlxFolder
from services.shared.errors import InvalidModelFile
from services.shared.store.layout import checked_path
from services.shared.store.manifest import Capability, Description, FileRole, StoredFile
from services.shared.templates.template import ChatTemplate
from services.shared.templates.traits import TemplateTraits, probe

_MAX_TEMPLATE_BYTES = 1 << 20
_IN_A_FOLDER = {FileRole.MODEL, FileRole.CONFIG, FileRole.TOKENIZER, FileRole.TEMPLATE}


def describe_model(
    files: Sequence[StoredFile], path_of: Callable[[StoredFile], Path]
) -> Description:
    """What the files are. InvalidModelFile, in a sentence for people, when they must not be served.

    `path_of` finds a file's bytes (`ModelStore.file_path`). A file of role TEMPLATE is Jinja when
    its path ends in .jinja or .json, else Ollama's Go template.
    """
    check_file_names(file.path for file in files)
    for file in files:
        checked_path(file.path)
    weights = [f for f in files if f.role is FileRole.MODEL]
    if not weights or not all(f.size_bytes for f in weights):
        raise InvalidModelFile("the model has no weights")
    if any(f.path.endswith(".safetensors") for f in weights):
        description = _describe_mlx(files, path_of)
    else:
        description = _describe_gguf(weights, files, path_of)
    if any(f.role is FileRole.PROJECTOR for f in files):
        description = _with_capability(description, Capability.VISION)
    return description


def read_gguf_parts(paths: Sequence[Path]) -> list[Header]:
    """The headers of a model's GGUF files, in the order of their numbers."""
    headers = [read_header(path) for path in paths]
    return sorted(headers, key=lambda header: header.integer("split.no") or 0)


def _describe_gguf(
    weights: Sequence[StoredFile],
    files: Sequence[StoredFile],
    path_of: Callable[[StoredFile], Path],
) -> Description:
    parts = read_gguf_parts([path_of(f) for f in weights])
    check_gguf(parts)
    for file in files:
        if file.role in (FileRole.PROJECTOR, FileRole.ADAPTER, FileRole.DRAFT):
            read_header(path_of(file))
    description = msgspec.structs.replace(
        describe_gguf(parts), warnings=tuple(gguf_warnings(parts))
    )
    own = jinja_source(parts[0].text("tokenizer.chat_template"))
    if own is not None:
        return with_template(description, own, "gguf")
    for file in files:
        if file.role is FileRole.TEMPLATE and file.size_bytes <= _MAX_TEMPLATE_BYTES:
            text = path_of(file).read_bytes().decode(errors="replace")
            return _with_template_file(description, file, text)
    return with_template(description, None, None)


def _describe_mlx(
    files: Sequence[StoredFile], path_of: Callable[[StoredFile], Path]
) -> Description:
    folder = MlxFolder({f.path: path_of(f) for f in files if f.role in _IN_A_FOLDER})
    check_mlx(folder)
    description = describe_mlx(folder)
    return with_template(description, description.chat_template, description.template_source)


def _with_template_file(description: Description, file: StoredFile, text: str) -> Description:
    if file.path.endswith((".jinja", ".json")):
        return with_template(description, jinja_source(text), "file")
    family = family_of_go_template(text)
    if family is None:
        return _warned(
            description,
            "The model brings its chat template in Ollama's own language and none in Jinja, so it"
            " completes text only; pull a GGUF of it from Hugging Face to chat with it.",
        )
    return _warned(
        with_template(description, family.jinja, f"{family.name} family"),
        f"The model brings its chat template in Ollama's own language; the plain template of the"
        f" {family.name} family stands in for it, without tools.",
    )


def with_template(description: Description, source: str | None, origin: str | None) -> Description:
    """The description with a template and the capabilities it shows; without it when it fails."""
    bare = msgspec.structs.replace(description, chat_template=None, template_source=None)
    if Capability.COMPLETION not in description.capabilities:  # embeds or ranks, talks to nobody
        return bare
    if source is None:
        return _warned(bare, "The model brings no chat template, so it completes text only.")
    traits = _traits(source, description)
    if traits.failure is not None:
        return _warned(
            bare,
            f"The chat template cannot be used ({traits.failure}), so the model completes text"
            " only; another build of the same model may carry a working one.",
        )
    found = [Capability.COMPLETION, Capability.CHAT]
    found += [Capability.TOOLS] if traits.tools else []
    found += [Capability.THINKING] if traits.thinking else []
    return msgspec.structs.replace(
        description, chat_template=source, template_source=origin, capabilities=tuple(found)
    )


def _traits(source: str, description: Description) -> TemplateTraits:
    try:
        template = ChatTemplate(
            source, bos_token=description.bos_token, eos_token=description.eos_token
        )
    except InvalidModelFile as error:
        return TemplateTraits(failure=error.message)
    return probe(template)


def _warned(description: Description, warning: str) -> Description:
    return msgspec.structs.replace(description, warnings=(*description.warnings, warning))


def _with_capability(description: Description, capability: Capability) -> Description:
    return msgspec.structs.replace(
        description, capabilities=(*description.capabilities, capability)
    )
