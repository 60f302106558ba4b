"""A plain download: one GGUF file at a URL, verified if its SHA-256 is given."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from services.puller.sources.base import Listing, RemoteFile, ResolveOptions
from services.puller.transport.address import Address
from services.puller.transport.busy import find_busy_error
from services.puller.transport.http_client import HttpSession
from services.puller.transport.range_response import describe_refusal, parse_total_size
from services.shared.errors import InvalidRequest, PullFailed
from services.shared.model_name import ModelName
from services.shared.store.manifest import FileRole

_TIMEOUT_SECONDS = 30.0
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class UrlSource:
    """Any web server. Plain http is allowed for this machine and the hosts in the settings."""

    def __init__(self, *, plain_http_hosts: frozenset[str] = frozenset()) -> None:
        self._plain_http_hosts = plain_http_hosts | _LOOPBACK

    def resolve(self, name: ModelName, options: ResolveOptions) -> Listing:
        """Return the file, with the size that the server reports."""
        url = options.address or name.file or ""
        host = urlsplit(url).hostname or ""
        if not url.startswith("https://") and host not in self._plain_http_hosts:
            raise InvalidRequest("a plain download must be https://")
        if options.sha256 is not None and not _SHA256.fullmatch(options.sha256):
            raise InvalidRequest("sha256 must be 64 hexadecimal digits", param="sha256")
        warnings = () if options.sha256 else ("no sha256 was given, so the file was not verified",)
        file = RemoteFile(
            role=FileRole.MODEL,
            path=f"{name.model}.gguf",
            address=Address(url),
            size_bytes=_fetch_size(url),
            digest=f"sha256:{options.sha256.lower()}" if options.sha256 else None,
        )
        return Listing(name=name, source=host, format="gguf", files=(file,), warnings=warnings)


def _fetch_size(url: str) -> int:
    session = HttpSession(timeout_seconds=_TIMEOUT_SECONDS)
    try:
        with session.get(Address(url), {"Range": "bytes=0-0"}) as reply:
            if reply.status == 206:
                size_bytes = parse_total_size(reply.header("content-range"))
                if size_bytes is not None:
                    return size_bytes
            if reply.status == 200 and reply.content_length is not None:
                return reply.content_length
            if busy := find_busy_error("the server", reply.status, reply.header):
                raise busy
            if reply.status not in (200, 206):
                raise PullFailed(describe_refusal(reply.status))
            raise PullFailed("the server does not report the size of the file")
    finally:
        session.close()
