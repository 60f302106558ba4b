from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.shared.store.builders import make_manifest

ROOT = Path(__file__).resolve().parents[2]

# Without `resolved`, three of ten such processes end with a segmentation fault.
_DECODE_IN_16_THREADS = """
import sys, threading, msgspec
from services.shared.store.manifest import Manifest
sys.setswitchinterval(1e-6)
barrier, decoded = threading.Barrier(16), []
def decode():
    barrier.wait()
    decoded.append(msgspec.json.decode(sys.argv[1], type=Manifest))
threads = [threading.Thread(target=decode) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(decoded))
"""


def test_several_threads_may_be_the_first_to_decode_a_struct() -> None:
    manifest = msgspec.json.encode(make_manifest("tiny:latest", {"model.gguf": b"weights"}))
    command = [sys.executable, "-c", _DECODE_IN_16_THREADS, manifest.decode()]
    for _ in range(10):
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stdout.strip()) == (0, "16"), ended.stderr


def test_every_decoded_struct_is_resolved() -> None:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "services").rglob("*.py")]
    ours = {
        node.name: {ast.unparse(decorator) for decorator in node.decorator_list}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    decoded = {name for tree in trees for name in _decoded(tree)} & set(ours)

    assert {"Manifest", "LoadConfig", "PullJob", "ApiKey"} <= decoded
    assert [name for name in sorted(decoded) if "resolved" not in ours[name]] == []


def _decoded(tree: ast.Module) -> Iterator[str]:
    """The names of the types in `decode(..., type=NAME)`, `convert` and `decode_json(..., NAME)`."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        function, kinds = ast.unparse(call.func), list[ast.expr]()
        if function.startswith("msgspec."):
            kinds += [keyword.value for keyword in call.keywords if keyword.arg == "type"]
        if function in ("msgspec.convert", "decode_json"):
            kinds += call.args[1:2]
        for kind in kinds:
            yield from (node.id for node in ast.walk(kind) if isinstance(node, ast.Name))
