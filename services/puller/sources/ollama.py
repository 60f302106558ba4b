"""Registries that speak Ollama's protocol: an OCI manifest whose layers are blobs by digest.

The manifest's bytes are kept as they came. All layers are kept; one of a type we do not know fails
the pull, because serving a model without a part of it would be a different model.
Protocol: ollama's server/images.go and types/model; distribution's spec for the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from services.puller.sources.base import Listing, Order, SmallFile
from services.puller.sources.oci_manifest import (
    MANIFEST_TYPE,
    Layer,
    checked_digest,
    files_of,
    parse_manifest,
)
from services.puller.sources.registry_auth import TokenSigner, challenge_token
from services.puller.transport.http_client import Address, Reply, Session, retry_after_seconds
from services.puller.transport.range_response import refusal
from services.shared.errors import (
    InvalidRequest,
    ModelNotFound,
    PullFailed,
    SourceUnavailable,
)
from services.shared.model_name import OLLAMA_HOST, ModelName
from services.shared.store.manifest import FileRole
from services.shared.structs import resolved

_MAX_MANIFEST_BYTES = 4 << 20
_MAX_CONFIG_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0


@resolved
class _Config(msgspec.Struct, frozen=True):
    remote_host: str = ""
    remote_model: str = ""


class OllamaSource:
    """Any registry of the protocol. `base_url` is asked for names without a host of their own."""

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

    def resolve(self, name: ModelName, order: Order) -> Listing:
        """The manifest of a tag, as files."""
        if order.format == "mlx":
            raise InvalidRequest("this registry has GGUF models only; MLX models come from the hub")
        session = Session(timeout_seconds=self._timeout_seconds)
        try:
            return self._resolve(session, name)
        finally:
            session.close()

    def _resolve(self, session: Session, name: ModelName) -> Listing:
        base = f"{self.base_of(name)}/v2/{name.repo}"
        url = f"{base}/manifests/{name.tag}"
        raw, secrets = self._manifest(session, url, name)
        manifest = parse_manifest(raw)
        small = [SmallFile(FileRole.REGISTRY_MANIFEST, "manifest.json", raw)]
        if manifest.config is not None:
            config = self._config(session, base, manifest.config, secrets)
            small.append(SmallFile(FileRole.CONFIG, "config.json", config))
        return Listing(
            name=name,
            source=f"{urlsplit(base).hostname}",
            format="gguf",
            files=files_of(manifest, base, secrets),
            small_files=tuple(small),
        )

    def base_of(self, name: ModelName) -> str:
        """The registry's own address for a name."""
        if name.host == OLLAMA_HOST:
            return self._base_url
        host = name.host.lower()
        is_plain = host in self._plain_http_hosts or host.split(":")[0] in self._plain_http_hosts
        return f"{'http' if is_plain else 'https'}://{host}"

    def _manifest(
        self, session: Session, url: str, name: ModelName
    ) -> tuple[bytes, Mapping[str, str] | None]:
        accept = {"Accept": MANIFEST_TYPE}
        with session.get(Address(url), accept) as reply:
            if reply.status != 401:
                _check_manifest_reply(reply, name)
                return reply.read_all(_MAX_MANIFEST_BYTES), None
            challenge = reply.header("www-authenticate") or ""
            reply.read_all(_MAX_MANIFEST_BYTES)
        token = challenge_token(session, url, challenge, self._signer)
        secrets = {"Authorization": f"Bearer {token}"}
        with session.get(Address(url, secrets), accept) as reply:
            _check_manifest_reply(reply, name)
            return reply.read_all(_MAX_MANIFEST_BYTES), secrets

    def _config(
        self, session: Session, base: str, layer: Layer, secrets: Mapping[str, str] | None
    ) -> bytes:
        digest = checked_digest(layer)
        with session.get(Address(f"{base}/blobs/{digest}", secrets)) as reply:
            if reply.status != 200:
                raise _failure(reply)
            raw = reply.read_all(_MAX_CONFIG_BYTES)
        if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
            raise PullFailed("the model's configuration does not have the promised digest")
        try:
            config = msgspec.json.decode(raw, type=_Config)
        except msgspec.DecodeError as error:
            raise PullFailed("the model's configuration is not readable") from error
        if config.remote_host or config.remote_model:
            raise PullFailed(
                "this model runs on somebody else's computer: it has no weights to pull"
            )
        return raw


def _check_manifest_reply(reply: Reply, name: ModelName) -> None:
    if reply.status == 404:
        raise ModelNotFound(f"the registry has no model {str(name)!r}")
    if reply.status != 200:
        raise _failure(reply)


def _failure(reply: Reply) -> PullFailed:
    if reply.status == 429 or reply.status >= 500:
        wait = retry_after_seconds(reply, at_most=300.0)
        return SourceUnavailable(
            f"the registry answered HTTP {reply.status}", retry_after_seconds=wait
        )
    return PullFailed(refusal(reply.status))
