"""Schemathesis over /openapi.json of a real stack: no request makes the server fail.

It is not among the locked packages. Install it into an environment of its own, and name it:

    python3 -m venv /tmp/st && /tmp/st/bin/pip install schemathesis
    SCHEMATHESIS=/tmp/st/bin/schemathesis make soak

FUZZ_SECONDS (200) is the time for each kind of key.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.stack import RunningStack

COMMAND = os.environ.get("SCHEMATHESIS") or shutil.which("schemathesis")
SECONDS = int(os.environ.get("FUZZ_SECONDS", "200"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(SECONDS * 5 + 300),
    pytest.mark.skipif(COMMAND is None, reason="schemathesis is not installed (see this file)"),
]

# What the service says about a source or a model that is away is no failure of the server: 502 to
# 507 have a reason that the client can read. 500 has none.
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501, 502, 503, 504, 507]
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    closed = "http://127.0.0.1:9"  # no request leaves this computer
    stack = RunningStack(
        folder / "data",
        SPINDLL_OLLAMA_REGISTRY=closed,
        SPINDLL_HF_ENDPOINT=closed,
        SPINDLL_ALLOWED_SOURCES="127.0.0.1",
        SPINDLL_REQUEST_TIMEOUT_SECONDS="10",
    )
    started = stack.up()
    try:
        assert started.returncode == 0, started.stderr + stack.logs()
        yield stack
    finally:
        stack.down()


def describe_for_fuzzing(stack: RunningStack) -> dict[str, Any]:
    """The description, with a model that exists: else almost every request would end as a 404."""
    with stack.http() as http:
        described: dict[str, Any] = http.get("/openapi.json").json()
    for schema in described["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"enum": ["tiny"]}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/models/") and method != "delete":
                for parameter in operation.get("parameters", ()):
                    if parameter["name"] == "name":
                        parameter["schema"] = {"enum": ["tiny", "nope"]}
    return described


def read_key(stack: RunningStack, role: str) -> str:
    return next(file for file in stack.key_files if file.stem == role).read_text().strip()


@pytest.mark.parametrize("role", ["none", "user", "admin"])
def test_no_request_makes_the_server_fail(stack: RunningStack, role: str, tmp_path: Path) -> None:
    description = tmp_path / "openapi.json"
    description.write_text(json.dumps(describe_for_fuzzing(stack)))
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    key = "" if role == "none" else read_key(stack, role)
    done = subprocess.run(
        [
            *(str(COMMAND), "--config-file", str(config), "run", str(description)),
            *("--url", stack.url, "--checks", "not_a_server_error"),
            *("--max-time", str(SECONDS), "--request-timeout", "60", "--no-shrink"),
            *(("--header", f"X-Api-Key: {key}") if key else ()),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    print(done.stdout[-3000:])  # the number of requests; `-rP` shows it

    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert httpx.get(f"{stack.url}/health", trust_env=False).status_code == 200
    assert "unexpected error" not in stack.logs()
