"""The Hugging Face hub, or a mirror of it: huggingface_hub lists the files to download.

The listing fixes the commit, so that all files are of one version. Weights carry their SHA-256
(LFS or Xet). Small files carry git's own hash, which is verified too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx2
import msgspec
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from services.puller.sources.base import Format, Listing, RemoteFile, ResolveOptions
from services.puller.sources.file_selection import (
    SelectionCriteria,
    apply_weight_index,
    find_weight_index,
    select_files,
)
from services.puller.transport.address import Address
from services.puller.transport.busy import find_busy_error
from services.puller.transport.http_client import HttpSession, describe_connection_error
from services.shared.errors import ModelNotFound, PullFailed, SourceUnavailable
from services.shared.model_name import DEFAULT_TAG, ModelName
from services.shared.store.layout import checked_path, parse_digest
from services.shared.store.manifest import FileRole
from services.shared.structs import decode_json, resolved

_TIMEOUT_SECONDS = 30.0
_MAX_FILES = 100_000  # of a repository
# Of a model; the largest have a few hundred. A job's progress lists each of them, in Redis.
_MAX_MODEL_FILES = 2000
_MAX_INDEX_BYTES = 64 << 20  # an index has a line for each tensor
GATED = (
    "this repository is gated: accept its terms on its page, "
    "then set SPINDLL_HF_TOKEN to a token that may read it"
)
_REFUSED = "the hub refuses access: the token is wrong or may not read this repository"
_TOO_LARGE = (
    "the hub does not serve this file over plain HTTP; download it with `hf download`,"
    " then `spindll import --hf`"
)
_OID = re.compile(r"[0-9a-f]{40}")


@resolved
class _WeightIndex(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


class HuggingFaceSource:
    """One hub. `prefers_mlx`: select safetensors of an MLX repository unless GGUF is requested."""

    def __init__(
        self, endpoint: str, *, token: str | None = None, prefers_mlx: bool = False
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._prefers_mlx = prefers_mlx
        # False, not None: None would use a token that is stored on this machine.
        self._api = HfApi(endpoint=self._endpoint, token=token or False, library_name="spindll")

    def resolve(self, name: ModelName, options: ResolveOptions) -> Listing:
        """Return the model's files at the newest commit of its branch, or at its revision."""
        info = self._fetch_info(name)
        commit = str(info.sha or "")
        if not _OID.fullmatch(commit):
            raise PullFailed("the hub did not name the commit of the repository")
        siblings = {s.rfilename: s for s in info.siblings or []}
        if len(siblings) > _MAX_FILES:
            raise PullFailed(f"the repository has {len(siblings)} files, more than a model has")
        try:
            selection = select_files(siblings, self._build_criteria(name, options))
        except PullFailed as error:
            if not error.details.get("needs_mlx"):
                raise
            raise PullFailed(f"{error.message}{self._list_alternatives(name)}") from error
        if (index := find_weight_index(selection)) is not None:
            file = self._build_remote_file(name.repo, info, FileRole.CONFIG, siblings[index])
            selection = apply_weight_index(selection, siblings, _fetch_weight_map(file))
        if len(selection.files) > _MAX_MODEL_FILES:
            raise PullFailed(f"the model has {len(selection.files)} files, more than any real one")
        parts = sum(role is FileRole.MODEL for role, _ in selection.files)
        files = tuple(
            replace(self._build_remote_file(name.repo, info, role, siblings[path]), parts=parts)
            for role, path in selection.files
        )
        return Listing(
            name=name,
            source="huggingface.co"
            if "huggingface.co" in self._endpoint
            else "Hugging Face mirror",
            format=selection.format,
            files=files,
            warnings=selection.warnings,
            version=commit,
        )

    def _fetch_info(self, name: ModelName) -> Any:
        repo = name.repo
        try:
            return self._api.model_info(
                repo, revision=name.revision, files_metadata=True, timeout=_TIMEOUT_SECONDS
            )
        except GatedRepoError as error:
            raise PullFailed(GATED) from error
        except RepositoryNotFoundError as error:
            hint = "" if self._token else ", or it is private and requires SPINDLL_HF_TOKEN"
            raise ModelNotFound(f"the hub has no repository {repo!r}{hint}") from error
        except RevisionNotFoundError as error:
            raise ModelNotFound(
                f"the repository {repo!r} has no branch, tag or commit {name.revision!r}"
            ) from error
        except HfHubHTTPError as error:
            raise _to_error(error) from error
        except (httpx2.HTTPError, OSError) as error:
            raise SourceUnavailable(describe_connection_error("the hub", error)) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # The client does not check what it gets; a network that asks for a login sends a page.
            raise SourceUnavailable(
                "the hub's answer is not readable; the network may ask for a login"
            ) from error

    def _list_alternatives(self, name: ModelName) -> str:
        """The most downloaded GGUF repositories that were made from this one, as `: a, b`."""
        try:
            found = self._api.list_models(
                filter=["gguf", f"base_model:quantized:{name.repo}"], sort="downloads", limit=3
            )
            repos = [model.id for model in found]
        except (HfHubHTTPError, httpx2.HTTPError, OSError):
            repos = []  # they are only a help
        return f": {', '.join(repos)}" if repos else f" (`spindll search {name.model}`)"

    def _build_criteria(self, name: ModelName, options: ResolveOptions) -> SelectionCriteria:
        tag = name.tag.lower()
        fmt: Format | None = options.format
        if name.file is not None:
            return SelectionCriteria(file=name.file)
        if tag in ("mlx", "gguf"):
            return SelectionCriteria(format="mlx" if tag == "mlx" else "gguf")
        if tag.endswith("bit"):
            # A repository has MLX weights of one width. Never another one than requested.
            if tag not in name.model.lower():
                raise PullFailed(
                    f"a repository has MLX weights of one width, and {name.model} does not name"
                    f" {tag}: `spindll search {name.model} --format mlx` finds the others"
                )
            return SelectionCriteria(format="mlx")
        if tag == DEFAULT_TAG:
            return SelectionCriteria(format=fmt, prefers_mlx=self._prefers_mlx)
        return SelectionCriteria(quantization=name.tag, format="gguf")

    def _build_remote_file(self, repo: str, info: Any, role: FileRole, sibling: Any) -> RemoteFile:
        path = checked_path(sibling.rfilename)
        if sibling.size is None or sibling.size < 0:
            raise PullFailed(f"the hub does not report the size of {path}")
        digest = parse_digest(f"sha256:{sibling.lfs.sha256}") if sibling.lfs is not None else None
        oid = sibling.blob_id
        secrets = {"Authorization": f"Bearer {self._token}"} if self._token else None
        url = hf_hub_url(repo, path, revision=info.sha, endpoint=self._endpoint)
        # The hub lists a gated repository to any client; it refuses only the files.
        refused = GATED if info.gated else _REFUSED
        return RemoteFile(
            role=role,
            path=path,
            address=Address(url, secrets, {400: _TOO_LARGE, 401: refused, 403: refused}),
            size_bytes=sibling.size,
            digest=digest,
            git_oid=oid if digest is None and oid and _OID.fullmatch(oid) else None,
        )


def _fetch_weight_map(file: RemoteFile) -> Mapping[str, str]:
    """The file of each tensor, from the index of a repository."""
    session = HttpSession(timeout_seconds=_TIMEOUT_SECONDS)
    try:
        with session.get(file.address) as reply:
            if busy := find_busy_error("the hub", reply.status, reply.header):
                raise busy
            if reply.status != 200:
                reason = file.address.refusals.get(reply.status)
                raise PullFailed(reason or f"the hub answered HTTP {reply.status}")
            raw = reply.read_all(_MAX_INDEX_BYTES)
    finally:
        session.close()
    try:
        return decode_json(raw, _WeightIndex).weight_map
    except msgspec.DecodeError as error:
        raise PullFailed(f"the repository's {file.path} is not readable") from error


def _to_error(error: HfHubHTTPError) -> PullFailed:
    status = error.response.status_code
    if busy := find_busy_error("the hub", status, error.response.headers.get):
        return busy
    if status in (401, 403):
        return PullFailed(_REFUSED)
    return PullFailed(f"the hub answered HTTP {status}")
