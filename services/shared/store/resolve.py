"""Find the stored model that a text means. Pure: works on a list of manifests.

The first step with a match wins. Of several matches, tag `latest` wins, then the newest, then the
first by name.
1  the canonical name, compared without case
2  a digest: `sha256:` and at least 12 hexadecimal digits
3  the name of a file: `owner/repo/file.gguf` stored under its quantisation, `manual/file.gguf`
4  the same repository or model: with any tag if the text has none or `latest`; or with the same
   tag from another source, since a name with one slash may have meant the hub when it was pulled
   and mean a registry now
5  the model's own `base_model`, as in the original Spindll
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from services.shared.errors import InvalidModelName
from services.shared.model_name import DEFAULT_TAG, ModelName
from services.shared.store.manifest import FileRole, Manifest

_DIGEST_PREFIX = re.compile(r"sha256[:-]([0-9a-f]{12,64})", re.IGNORECASE)


def find(manifests: Sequence[Manifest], text: str) -> Manifest | None:
    """The model that a text means, or None.

    Raises InvalidModelName when there is no match and the text is not a model name.
    """
    name = _parse_or_none(text)
    found = (
        find_certain(manifests, text)
        or _by_same_model(manifests, name)  # 4
        or _by_base_model(manifests, text)  # 5
    )
    if not found and name is None:
        ModelName.parse(text)
    ranked = sorted(
        found,
        key=lambda m: (ModelName.parse(m.name).tag.lower() != DEFAULT_TAG, -m.created_at, m.name),
    )
    return ranked[0] if ranked else None


def find_certain(manifests: Sequence[Manifest], text: str) -> list[Manifest]:
    """Every model that a text certainly means: steps 1 to 3, and step 4 for a text without a tag.

    For operations that must not guess, such as a delete.
    """
    name = _parse_or_none(text)
    return (
        _by_name(manifests, name)  # 1
        or _by_digest(manifests, text)  # 2
        or _by_file(manifests, text)  # 3
        or (_by_same_model(manifests, name) if name and not name.tag_given else [])  # 4
    )


def _by_name(manifests: Iterable[Manifest], name: ModelName | None) -> list[Manifest]:
    return [m for m in manifests if name and ModelName.parse(m.name).key == name.key]


def _by_digest(manifests: Iterable[Manifest], text: str) -> list[Manifest]:
    prefix = _DIGEST_PREFIX.fullmatch(text.strip())
    wanted = f"sha256:{prefix[1].lower()}" if prefix else None
    return [m for m in manifests if wanted and m.digest.startswith(wanted)]


def _by_file(manifests: Iterable[Manifest], text: str) -> list[Manifest]:
    *folder, file = text.strip().split("/")
    if not file.lower().endswith(".gguf"):
        return []
    any_folder = folder in ([], ["manual"])
    repo = "/".join(folder[:2])
    return [
        m
        for m in manifests
        if (any_folder or ModelName.parse(m.name).repo_at.lower() == repo.lower())
        and any(
            f.role is FileRole.MODEL and f.path.rsplit("/", 1)[-1].lower() == file.lower()
            for f in m.files
        )
    ]


def _by_same_model(manifests: Iterable[Manifest], name: ModelName | None) -> list[Manifest]:
    if name is None or name.file is not None:
        return []
    _, namespace, model, tag = name.key
    keys = {m.name: ModelName.parse(m.name).key for m in manifests}
    return [
        m
        for m in manifests
        if keys[m.name][1:3] == (namespace, model) and tag in (DEFAULT_TAG, keys[m.name][3])
    ]


def _by_base_model(manifests: Iterable[Manifest], text: str) -> list[Manifest]:
    wanted = _plain(text)
    return [m for m in manifests if wanted and _plain(m.description.base_model or "") == wanted]


def _plain(text: str) -> str:
    return re.sub(r"[: ]", "-", text.strip()).casefold()


def _parse_or_none(text: str) -> ModelName | None:
    try:
        return ModelName.parse(text)
    except InvalidModelName:
        return None
