"""Generate the protobuf and gRPC stubs: `python -m tests.repository.stubs`.

protoc gets the path `protos/x.proto`, so the generated code imports `from protos import x_pb2` and
needs no editing. mypy-protobuf writes the typed stubs; comments in the protos become docstrings.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def generate_stubs(folder: Path) -> None:
    """Write `protos/*_pb2*` into the folder. Raises CalledProcessError if protoc fails."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "protos").glob("*.proto"))
    outputs = ("--python_out", "--grpc_python_out", "--mypy_out", "--mypy_grpc_out")
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I."]
        + [f"{option}={folder}" for option in outputs]
        + sources,
        cwd=ROOT,
        # protoc searches PATH for the plug-ins of mypy-protobuf.
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=True,
    )


if __name__ == "__main__":
    generate_stubs(ROOT)
