"""The URLs of sources and of their redirects, which come from strangers. Pure."""

from __future__ import annotations

import re
import string
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from services.shared.errors import PullFailed

_NOT_IN_A_URL = re.compile(r"[^\x21-\x7e]")


def split_url(url: str) -> SplitResult:
    """The parts of an http URL with a host. Raises PullFailed when it is not well formed."""
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and parts.port != 0 and not _NOT_IN_A_URL.search(url)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise PullFailed("the source's address is not well formed")
    return parts


def resolve_redirect(url: str, location: str) -> str:
    """The URL that a Location header names. Raises PullFailed for one that is not allowed."""
    # Some servers send plain UTF-8, which the parser of headers has decoded as Latin-1.
    encoded = quote(location.encode("latin-1"), safe=string.punctuation)
    try:
        target = urljoin(url, encoded)
    except ValueError as error:
        raise PullFailed("the source redirects to an address that is not well formed") from error
    if urlsplit(target).scheme not in ("http", "https"):
        raise PullFailed("the source redirects to an address that is not http")
    if url.startswith("https:") and not target.startswith("https:"):
        raise PullFailed("the source redirects from https to plain http")
    return target


def find_origin(parts: SplitResult) -> tuple[str, str]:
    """The scheme, and the host with its port."""
    return parts.scheme, parts.netloc.lower()


def has_origin(url: str, other: str) -> bool:
    """Whether two URLs have the same scheme, host and port."""
    return find_origin(urlsplit(url)) == find_origin(urlsplit(other))
