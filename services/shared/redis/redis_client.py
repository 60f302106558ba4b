"""Connect to Redis: from a URL, with the password from a file if there is one."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import redis
import redis.asyncio

CONNECT_TIMEOUT_SECONDS = 5
# None: a client does not introduce itself by CLIENT SETINFO. Our Redis users may not call it, since
# Redis before 7.2 knows no such command, and refuses to start with a rule for it.
_DRIVER_INFO = None


def url_with_password(url: str, password_file: Path | None) -> str:
    """The URL, with the password from the file unless the URL has one. It keeps its user."""
    parts = urlsplit(url)
    if password_file is None or parts.password:
        return url
    password = quote(password_file.read_text().strip(), safe="")
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.rstrip(':')}:{password}@{host}"))


def connect(url: str, password_file: Path | None = None) -> redis.Redis:
    """A blocking client (api, puller). Connects on first use. Returns bytes, as RQ expects."""
    return redis.Redis.from_url(
        url_with_password(url, password_file),
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        driver_info=_DRIVER_INFO,
    )


def connect_async(
    url: str, password_file: Path | None = None, *, timeout_seconds: float | None = None
) -> redis.asyncio.Redis:
    """An asyncio client (api, engine). Connects on first use. Returns str.

    `timeout_seconds`: for an answer; None waits for ever.
    """
    return redis.asyncio.Redis.from_url(
        url_with_password(url, password_file),
        socket_timeout=timeout_seconds,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        decode_responses=True,
        driver_info=_DRIVER_INFO,
    )
