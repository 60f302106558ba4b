"""A pull from a registry on loopback, whole: api, Redis, worker, store, engine."""

from __future__ import annotations

from typing import Any

from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.flows.stack import RunningStack
from tests.waiting import until

ENDED = ("done", "failed", "cancelled")


def serve(registry: Registry, name: str) -> str:
    """Offer a model whose bytes no other has, or there would be nothing to fetch; their digest."""
    mark = f"general.{name[:4]}".encode()
    data = TINY_GGUF.read_bytes().replace(b"general.name", mark, 1)
    registry.add_model(f"library/{name}:1b", {"model": data})
    return sha256_digest(data)


def follow(stack: RunningStack, name: str) -> list[dict[str, Any]]:
    """All that a client sees of a pull, from the answer to the POST to its end."""
    with stack.http() as http:
        asked = http.post("/v1/pulls", json={"model": name})
        assert asked.status_code == 202
        seen: list[dict[str, Any]] = [asked.json()]

        def has_ended() -> bool:
            seen.append(http.get(f"/v1/pulls/{seen[0]['id']}").json())
            return seen[-1]["state"] in ENDED

        until(has_ended)
    return seen


def names(stack: RunningStack) -> list[str]:
    with stack.http() as http:
        return [model["id"] for model in http.get("/v1/models").json()["data"]]


def test_a_flipped_byte_fails_the_job_and_nothing_is_listed(
    stack: RunningStack, registry: Registry
) -> None:
    registry.plan.faults.append(
        Fault(path_part=serve(registry, "broken"), times=ALWAYS, flip_at=1 << 20)
    )
    job = follow(stack, "broken:1b")[-1]

    assert job["state"] == "failed"
    assert "digest mismatch" in job["error"]
    assert not any(name.startswith("broken") for name in names(stack))
    said = stack.cli("pull", "broken:1b")
    assert said.returncode == 1
    assert "digest mismatch" in said.stderr


def test_a_pull_goes_from_queued_to_done_with_progress_and_its_model_answers(
    stack: RunningStack, registry: Registry
) -> None:
    # The first connection stalls half-way, so that there is something to see.
    registry.plan.faults.append(Fault(path_part=serve(registry, "second"), stall_at=1 << 19))
    seen = follow(stack, "second:1b")

    states = list(dict.fromkeys(job["state"] for job in seen))
    assert states in (["queued", "running", "done"], ["running", "done"])
    assert seen[0]["state"] == "queued"
    assert any(
        0 < job["downloaded_bytes"] < job["total_bytes"] for job in seen if job["total_bytes"]
    )
    assert seen[-1]["downloaded_bytes"] == seen[-1]["total_bytes"]
    assert "second:1b" in names(stack)
    assert stack.ask("What is the capital of France?", model="second:1b") == "Paris."


def test_the_command_shows_and_concludes_a_pull(stack: RunningStack, registry: Registry) -> None:
    serve(registry, "third")
    said = stack.cli("pull", "third:1b")

    assert (said.returncode, said.stdout) == (0, "third:1b is ready\n")
    assert stack.cli("rm", "third:1b").returncode == 0
    assert "third:1b" not in names(stack)
