"""Pulls from a registry on loopback through the whole stack."""

from __future__ import annotations

from typing import Any

from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.flows.stack import RunningStack
from tests.waiting import until

ENDED = ("done", "failed", "cancelled")


def publish_model(registry: Registry, name: str) -> str:
    """Publish a model with unique bytes, so that it must be downloaded; returns their digest."""
    mark = f"general.{name[:4]}".encode()
    data = TINY_GGUF.read_bytes().replace(b"general.name", mark, 1)
    registry.add_model(f"library/{name}:1b", {"model": data})
    return sha256_digest(data)


def follow_pull(stack: RunningStack, name: str) -> list[dict[str, Any]]:
    """Start a pull and return every state of the job that a client observes."""
    with stack.http() as http:
        response = http.post("/v1/pulls", json={"model": name})
        assert response.status_code == 202
        seen: list[dict[str, Any]] = [response.json()]

        def has_ended() -> bool:
            seen.append(http.get(f"/v1/pulls/{seen[0]['id']}").json())
            return seen[-1]["state"] in ENDED

        until(has_ended)
    return seen


def list_models(stack: RunningStack) -> list[str]:
    with stack.http() as http:
        return [model["id"] for model in http.get("/v1/models").json()["data"]]


def test_a_flipped_byte_fails_the_job_and_installs_no_model(
    stack: RunningStack, registry: Registry
) -> None:
    registry.plan.faults.append(
        Fault(path_part=publish_model(registry, "broken"), times=ALWAYS, flip_at=1 << 20)
    )
    job = follow_pull(stack, "broken:1b")[-1]

    assert job["state"] == "failed"
    assert "digest mismatch" in job["error"]
    assert not any(name.startswith("broken") for name in list_models(stack))
    result = stack.cli("pull", "broken:1b")
    assert result.returncode == 1
    assert "digest mismatch" in result.stderr


def test_a_pull_reports_progress_until_done_and_its_model_answers(
    stack: RunningStack, registry: Registry
) -> None:
    # The first connection stalls half-way, so that progress can be observed.
    registry.plan.faults.append(
        Fault(path_part=publish_model(registry, "second"), stall_at=1 << 19)
    )
    seen = follow_pull(stack, "second:1b")

    states = list(dict.fromkeys(job["state"] for job in seen))
    assert states in (["queued", "running", "done"], ["running", "done"])
    assert seen[0]["state"] == "queued"
    assert any(
        0 < job["downloaded_bytes"] < job["total_bytes"] for job in seen if job["total_bytes"]
    )
    assert seen[-1]["downloaded_bytes"] == seen[-1]["total_bytes"]
    assert "second:1b" in list_models(stack)
    assert stack.ask("What is the capital of France?", model="second:1b") == "Paris."


def test_the_pull_command_waits_until_the_model_is_ready(
    stack: RunningStack, registry: Registry
) -> None:
    publish_model(registry, "third")
    result = stack.cli("pull", "third:1b")

    assert (result.returncode, result.stdout) == (0, "third:1b is ready\n")
    assert stack.cli("rm", "third:1b").returncode == 0
    assert "third:1b" not in list_models(stack)
