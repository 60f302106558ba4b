"""What `up` was asked for; also how it reaches the detached supervisor, as JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.shared.structs import resolved


@resolved
class StackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One stack. The ports are checked by whoever starts it."""

    data_dir: Path  # absolute
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int = 50051  # 0: none
    workers: int | None = None  # of the api; None: its own default
    drain_seconds: float = 10.0


def to_json(options: StackOptions) -> bytes:
    """For the detached supervisor's stdin."""
    return msgspec.json.encode(options, enc_hook=str)


def from_json(said: bytes) -> StackOptions:
    """What `to_json` wrote."""
    return msgspec.json.decode(said, type=StackOptions, dec_hook=lambda _, path: Path(path))
