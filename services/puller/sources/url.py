"""A plain download: one GGUF file at an address, with its sha256 where somebody knows it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from services.puller.sources.base import Listing, Order, RemoteFile
from services.puller.transport.http_client import Address, Session, retry_after_seconds
from services.puller.transport.range_response import refusal
from services.shared.errors import InvalidRequest, PullFailed, SourceUnavailable
from services.shared.model_name import ModelName
from services.shared.store.manifest import FileRole

_TIMEOUT_SECONDS = 30.0
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class UrlSource:
    """Any web server. Plain http is for hosts named in the settings, and for this machine."""

    def __init__(self, *, plain_http_hosts: frozenset[str] = frozenset()) -> None:
        self._plain_http_hosts = plain_http_hosts | _LOOPBACK

    def resolve(self, name: ModelName, order: Order) -> Listing:
        """The one file, its size as the server tells it."""
        url = name.file or ""
        host = urlsplit(url).hostname or ""
        if not url.startswith("https://") and host not in self._plain_http_hosts:
            raise InvalidRequest("a plain download must be https://")
        if order.sha256 is not None and not _SHA256.fullmatch(order.sha256):
            raise InvalidRequest("sha256 must be 64 hexadecimal digits", param="sha256")
        warnings = () if order.sha256 else ("no sha256 was given, so the file was not verified",)
        file = RemoteFile(
            role=FileRole.MODEL,
            path=f"{name.model}.gguf",
            address=Address(url),
            size_bytes=_size_bytes(url),
            digest=f"sha256:{order.sha256.lower()}" if order.sha256 else None,
        )
        return Listing(name=name, source=host, format="gguf", files=(file,), warnings=warnings)


def _size_bytes(url: str) -> int:
    session = Session(timeout_seconds=_TIMEOUT_SECONDS)
    try:
        with session.get(Address(url), {"Range": "bytes=0-0"}) as reply:
            if reply.status == 206:
                match = _TOTAL.fullmatch(reply.header("content-range") or "")
                if match is not None:
                    return int(match[1])
            if reply.status == 200 and reply.content_length is not None:
                return reply.content_length
            if reply.status == 429 or reply.status >= 500:
                wait = retry_after_seconds(reply, at_most=300.0)
                raise SourceUnavailable(
                    f"the server answered HTTP {reply.status}", retry_after_seconds=wait
                )
            if reply.status not in (200, 206):
                raise PullFailed(refusal(reply.status))
            raise PullFailed("the server does not say how large the file is")
    finally:
        session.close()
