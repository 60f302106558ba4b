"""Downloads of one file of random bytes from a loopback server, with short waits."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from services.puller.download.download import Download
from services.puller.download.partial_file import PartialFile
from services.puller.download.retry import RetryPolicy
from services.puller.download.throttle import Throttle
from services.puller.transport.address import Address
from services.puller.transport.session_pool import SessionPool
from tests.fakes.registries.server import LoopbackServer

SIZE = 3_000_000
DATA = random.Random(1).randbytes(SIZE)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
FAST_RETRIES = RetryPolicy(
    timeout_seconds=0.5, max_failures=6, min_progress_bytes=10_000, backoff_seconds=0.001
)


POOL = SessionPool(timeout_seconds=0.5)


def make_download(
    source: LoopbackServer | Address,
    partial: PartialFile,
    *,
    path: str = "/file",
    size_bytes: int = SIZE,
    **changes: Any,
) -> Download:
    address = source if isinstance(source, Address) else Address(f"{source.url}{path}")
    options = {
        "has_digest": True,
        "connections": 3,
        "sessions": POOL,
        "retry_policy": FAST_RETRIES,
        "throttle": Throttle(),
        "on_progress": lambda done_bytes: None,
    }
    return Download(partial, address, size_bytes, **{**options, **changes})


class Stop(Exception):
    pass


def stop_at(n_bytes: int) -> Any:
    def on_progress(done_bytes: int) -> None:
        if done_bytes >= n_bytes:
            raise Stop

    return on_progress
