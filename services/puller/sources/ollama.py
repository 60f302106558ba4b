"""Registries with Ollama's protocol: an OCI manifest whose layers are blobs, named by digest.

The manifest is stored byte for byte. The protocol is that of ollama's server/images.go and
types/model; the rest follows the specification of distribution.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from services.puller.formats.engine_support import TEXT_ONLY
from services.puller.sources.base import InlineFile, Listing, ResolveOptions
from services.puller.sources.oci_manifest import (
    LIST_TYPES,
    MANIFEST_TYPE,
    Layer,
    build_remote_files,
    has_unread_projector,
    list_variants,
    parse_layer_digest,
    parse_manifest,
    parse_manifest_digest,
)
from services.puller.sources.registry_auth import TokenSigner, fetch_token
from services.puller.sources.republished import list_replacements
from services.puller.transport.address import Address
from services.puller.transport.busy import find_busy_error
from services.puller.transport.http_client import HttpSession, Reply
from services.puller.transport.range_response import describe_refusal, is_page
from services.shared.errors import (
    InvalidRequest,
    ModelNotFound,
    PullFailed,
    SourceUnavailable,
)
from services.shared.model_name import OLLAMA_HOST, ModelName
from services.shared.store.manifest import FileRole
from services.shared.structs import decode_json, resolved

_MAX_MANIFEST_BYTES = 4 << 20
_MAX_CONFIG_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0


@resolved
class _ModelConfig(msgspec.Struct, frozen=True):
    remote_host: str = ""
    remote_model: str = ""


class OllamaSource:
    """Any registry with this protocol. `base_url` is the registry for names without a host."""

    def __init__(
        self,
        base_url: str,
        *,
        plain_http_hosts: frozenset[str] = frozenset(),
        signer: TokenSigner | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._plain_http_hosts = plain_http_hosts
        self._signer = signer
        self._timeout_seconds = timeout_seconds

    def resolve(self, name: ModelName, options: ResolveOptions) -> Listing:
        """Return the files that the manifest of a tag lists."""
        if options.format == "mlx":
            raise InvalidRequest("this registry has GGUF models only; MLX models come from the hub")
        session = HttpSession(timeout_seconds=self._timeout_seconds)
        try:
            return self._resolve(session, name)
        finally:
            session.close()

    def _resolve(self, session: HttpSession, name: ModelName) -> Listing:
        repo, raw, secret_headers = self._fetch_loadable_manifest(session, name)
        base_url = f"{self.find_registry_url(name)}/v2/{repo}"
        manifest = parse_manifest(raw)
        inline_files = [InlineFile(FileRole.REGISTRY_MANIFEST, "manifest.json", raw)]
        if manifest.config is not None:
            config = self._fetch_config(session, base_url, manifest.config, secret_headers)
            inline_files.append(InlineFile(FileRole.CONFIG, "config.json", config))
        warnings = []
        if repo != name.repo:
            warnings.append(f"the files are those of {repo}, which llama.cpp can load")
        if has_unread_projector(manifest):
            warnings.append(TEXT_ONLY)
        return Listing(
            name=name,
            source=f"{urlsplit(base_url).hostname}",
            format="gguf",
            files=build_remote_files(manifest, base_url, secret_headers),
            inline_files=tuple(inline_files),
            warnings=tuple(warnings),
            version=f"sha256:{hashlib.sha256(raw).hexdigest()}",
        )

    def find_registry_url(self, name: ModelName) -> str:
        """The base URL of the registry that a name belongs to."""
        if name.host == OLLAMA_HOST:
            return self._base_url
        host = name.host.lower()
        is_plain = host in self._plain_http_hosts or host.split(":")[0] in self._plain_http_hosts
        return f"{'http' if is_plain else 'https'}://{host}"

    def _fetch_loadable_manifest(
        self, session: HttpSession, name: ModelName
    ) -> tuple[str, bytes, Mapping[str, str] | None]:
        """The repository, manifest and credentials of what llama.cpp can load under a name.

        1  a list of variants: the one for llama.cpp
        2  a model of the library that was made for Ollama's engine: the same model, republished
        3  the manifest of the tag, as it is
        """
        raw, secret_headers = self._fetch_manifest(session, name, name.repo, name.tag)
        if (variants := list_variants(raw)) is not None:  # 1
            return name.repo, *self._fetch_variant(session, name, variants)
        for repo, tag in list_replacements(name):  # 2
            with contextlib.suppress(ModelNotFound):
                return repo, *self._fetch_manifest(session, name, repo, tag)
        return name.repo, raw, secret_headers  # 3

    def _fetch_variant(
        self, session: HttpSession, name: ModelName, digests: Sequence[str]
    ) -> tuple[bytes, Mapping[str, str] | None]:
        error = PullFailed("the registry's list of variants has none with a GGUF file")
        for digest in digests:
            raw, secret_headers = self._fetch_manifest(
                session, name, name.repo, parse_manifest_digest(digest)
            )
            if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
                raise PullFailed("a manifest does not have the digest that the list names")
            try:
                build_remote_files(parse_manifest(raw), "", None)
            except PullFailed as unusable:
                error = unusable
                continue
            return raw, secret_headers
        raise error

    def _fetch_manifest(
        self, session: HttpSession, name: ModelName, repo: str, tag: str
    ) -> tuple[bytes, Mapping[str, str] | None]:
        url = f"{self.find_registry_url(name)}/v2/{repo}/manifests/{tag}"
        accept = {"Accept": ", ".join((MANIFEST_TYPE, *LIST_TYPES))}
        with session.get(Address(url), accept) as reply:
            if reply.status != 401:
                _check_manifest_reply(reply, name)
                return reply.read_all(_MAX_MANIFEST_BYTES), None
            challenge = reply.header("www-authenticate") or ""
            reply.read_all(_MAX_MANIFEST_BYTES)
        token = fetch_token(session, url, challenge, self._signer)
        secret_headers = {"Authorization": f"Bearer {token}"}
        with session.get(Address(url, secret_headers), accept) as reply:
            _check_manifest_reply(reply, name)
            return reply.read_all(_MAX_MANIFEST_BYTES), secret_headers

    def _fetch_config(
        self,
        session: HttpSession,
        base_url: str,
        layer: Layer,
        secret_headers: Mapping[str, str] | None,
    ) -> bytes:
        digest = parse_layer_digest(layer)
        with session.get(Address(f"{base_url}/blobs/{digest}", secret_headers)) as reply:
            if reply.status != 200:
                raise _to_error(reply)
            raw = reply.read_all(_MAX_CONFIG_BYTES)
        if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
            raise PullFailed("the model's configuration does not have the announced digest")
        try:
            config = decode_json(raw, _ModelConfig)
        except msgspec.DecodeError as error:
            raise PullFailed("the model's configuration is not readable") from error
        if config.remote_host or config.remote_model:
            raise PullFailed("this model runs on a remote service: it has no weights to pull")
        return raw


def _check_manifest_reply(reply: Reply, name: ModelName) -> None:
    if reply.status == 404:
        raise ModelNotFound(f"the registry has no model {str(name)!r}")
    if reply.status != 200:
        raise _to_error(reply)
    if is_page(reply.header("content-type")):
        raise SourceUnavailable(
            "a web page came instead of the manifest; the network may ask for a login"
        )


def _to_error(reply: Reply) -> PullFailed:
    busy = find_busy_error("the registry", reply.status, reply.header)
    return busy or PullFailed(describe_refusal(reply.status))
