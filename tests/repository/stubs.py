"""Generate the protobuf and gRPC stubs: `python -m tests.repository.stubs`.

The path given to protoc is `protos/x.proto`, so the output imports `from protos import x_pb2` and
needs no mending. mypy-protobuf writes the typed stubs; protos' comments become their docstrings.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def generate(into: Path) -> None:
    """Write `protos/*_pb2*` below the folder. CalledProcessError when protoc refuses."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "protos").glob("*.proto"))
    outputs = ("--python_out", "--grpc_python_out", "--mypy_out", "--mypy_grpc_out")
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I."]
        + [f"{option}={into}" for option in outputs]
        + sources,
        cwd=ROOT,
        # protoc finds mypy-protobuf's plug-ins by PATH.
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=True,
    )


if __name__ == "__main__":
    generate(ROOT)
