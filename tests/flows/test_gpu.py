"""A stack that requires a GPU on a machine without one says so, and computes nothing on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.stack import RunningStack, build_greedy_body
from tests.waiting import until

REASON = "this llama.cpp was compiled without CUDA"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    folder = tmp_path_factory.mktemp("stack")
    stack = RunningStack(folder / "data", SPINDLL_REQUIRE_GPU="true")
    # In the foreground: `up --detach` would wait for half a minute for a chat to be possible.
    with stack.up_in_foreground() as process:
        try:
            until(lambda: [text for text in stack.readiness()[1] if "GPU" in text])
            yield stack
        finally:
            stack.down()
            process.communicate(timeout=60)


def test_ready_status_and_the_log_say_that_there_is_no_usable_gpu(stack: RunningStack) -> None:
    status = stack.cli("status")
    code, missing = stack.readiness()

    assert code == 503
    assert "the engine requires a GPU and can use none" in missing
    assert status.stdout.splitlines()[-1].startswith(f"problem: GPU: {REASON}")
    assert status.returncode == 1
    assert "a GPU cannot be used" in stack.paths.log_path("engine").read_text()


def test_a_chat_is_refused_with_the_reason_instead_of_computed_on_the_cpu(
    stack: RunningStack,
) -> None:
    until(lambda: "tiny" in stack.cli("list").stdout)
    with stack.http() as http:
        answer = http.post("/v1/chat/completions", json=build_greedy_body("Hello"))

    assert answer.status_code == 500
    assert answer.json()["error"]["message"].startswith(f"no usable GPU: {REASON}")
