"""The options of `up`, and their JSON form for the detached supervisor."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.shared.structs import resolved


@resolved
class StackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one stack. The code that starts the stack checks the ports."""

    data_dir: Path  # absolute
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int = 50051  # 0: no public gRPC port
    workers: int | None = None  # number of api processes; None: the api's default
    drain_seconds: float = 10.0


def to_json(options: StackOptions) -> bytes:
    """The options as JSON, for the stdin of the detached supervisor."""
    return msgspec.json.encode(options, enc_hook=str)


def from_json(data: bytes) -> StackOptions:
    """The options that `to_json` encoded."""
    return msgspec.json.decode(data, type=StackOptions, dec_hook=lambda _, path: Path(path))
