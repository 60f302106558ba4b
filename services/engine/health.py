"""`python -m services.engine.health`: exit status 0 when the engine answers and takes requests.

For the health checks of containers: it imports little and waits a few seconds at most.
"""

from __future__ import annotations

import sys

import grpc

from protos import engine_pb2 as pb
from protos.engine_pb2_grpc import EngineStub
from services.shared.settings import SharedSettings, read_settings

_TIMEOUT_SECONDS = 4.0


def is_healthy(address: str) -> bool:
    """Whether an engine at this address answers and is not shutting down."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = EngineStub(channel).Health(pb.HealthRequest(), timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError:
            return False
    return answer.accepting


if __name__ == "__main__":
    sys.exit(0 if is_healthy(read_settings(SharedSettings).engine_address) else 1)
