"""Planning a load, loading, unloading and deleting models over real HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protos import engine_pb2
from services.shared.errors import InsufficientMemory
from services.shared.store.model_store import ModelStore
from tests.api.conftest import Api, make_manifest, put_model


async def test_plan_load_and_unload_return_the_engines_answers(api: Api) -> None:
    async with api.client(api.admin_key) as client:
        plan = (await client.post("/v1/models/tiny/plan", json={"context_length": 64})).json()
        load = (await client.post("/v1/models/tiny/load", json={"keep_alive": "5m"})).json()
        unload = (await client.post("/v1/models/tiny/unload", json={"force": True})).json()

    assert (plan["action"], plan["evict"], plan["model"]) == (
        "evict",
        ["other:latest"],
        "tiny:latest",
    )
    assert load["model"]["name"] == "tiny:latest"
    assert "pid" not in load["model"]
    assert unload == {"model": "tiny:latest", "was_loaded": True}
    assert api.engine.calls == [
        engine_pb2.PlanRequest(
            model="tiny:latest", settings=engine_pb2.ModelSettings(context_length=64)
        ),
        engine_pb2.LoadRequest(
            model="tiny:latest", settings=engine_pb2.ModelSettings(keep_alive_seconds=300)
        ),
        engine_pb2.UnloadRequest(model="tiny:latest", force=True),
    ]


async def test_a_load_that_the_engine_refuses_reports_the_reason(api: Api) -> None:
    api.engine.unary_error = InsufficientMemory("needs 9 GiB, the budget is 8 GiB")
    async with api.client(api.admin_key) as client:
        answer = await client.post("/v1/models/tiny/load")

    assert answer.status_code == 507
    assert answer.json()["error"]["message"] == "needs 9 GiB, the budget is 8 GiB"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"context_length": -1}, "context_length"),
        ({"context_length": (1 << 24) + 1}, "context_length"),
        ({"gpu_layers": 10_001}, "gpu_layers"),
        ({"tensor_split": [1.0] * 17}, "tensor_split"),
        ({"main_gpu": 16}, "main_gpu"),
        ({"priority": 11}, "priority"),
        ({"cache_type_k": "f17"}, "cache_type_k"),
        ({"keep_alive": "soon"}, "keep_alive"),
    ],
    ids=str,
)
async def test_an_invalid_load_option_is_400_and_names_the_field(
    api: Api, options: dict[str, Any], param: str
) -> None:
    async with api.client(api.admin_key) as client:
        answer = await client.post("/v1/models/tiny/load", json=options)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", param)
    assert api.engine.calls == []


async def test_deleting_a_model_frees_its_bytes(api: Api) -> None:
    models_dir: Path = api.data_dir / "models"
    put_model(models_dir, make_manifest("owner/repo:Q4_K_M"))

    async with api.client(api.admin_key) as admin:
        deleted = (await admin.delete("/v1/models/owner/repo:Q4_K_M")).json()
        again = await admin.delete("/v1/models/owner/repo:Q4_K_M")

    # Others would keep its memory, and no request could name it any more.
    assert api.engine.calls == [engine_pb2.UnloadRequest(model="owner/repo:Q4_K_M")]
    assert deleted["id"] == "owner/repo:Q4_K_M"
    assert deleted["freed_bytes"] == len(b"weights of owner/repo:Q4_K_M")
    assert again.status_code == 404


async def test_a_model_is_deleted_also_while_the_engine_is_away(api: Api) -> None:
    await api.engine.stop()
    async with api.client(api.admin_key) as admin:
        deleted = await admin.delete("/v1/models/tiny")

    assert deleted.status_code == 200


async def test_a_model_that_is_loaded_and_no_longer_stored_can_be_unloaded(api: Api) -> None:
    ModelStore(api.data_dir / "models").delete("tiny")
    async with api.client(api.admin_key) as admin:
        unloaded = await admin.post("/v1/models/tiny/unload")
        unknown = await admin.post("/v1/models/huge/unload")

    assert unloaded.json() == {"model": "tiny:latest", "was_loaded": True}
    assert unknown.status_code == 404


async def test_a_copy_has_the_files_of_the_original_under_another_name(api: Api) -> None:
    async with api.client(api.admin_key) as admin:
        copied = await admin.post("/v1/models/tiny/copy", json={"target": "my/Assistant:1"})
        listed = (await admin.get("/v1/models")).json()["data"]
        put_model(api.data_dir / "models", make_manifest("other:latest"))
        taken = await admin.post("/v1/models/tiny/copy", json={"target": "other"})

    assert copied.json() == {
        "id": "my/Assistant:1",
        "object": "model",
        "copied_from": "tiny:latest",
    }
    assert [m["id"] for m in listed] == ["my/Assistant:1", "tiny:latest"]
    assert listed[0]["digest"] == listed[1]["digest"]
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "conflict")


async def test_only_an_admin_copies_and_a_target_is_needed(api: Api) -> None:
    async with api.client() as user:
        refused = await user.post("/v1/models/tiny/copy", json={"target": "x"})
    async with api.client(api.admin_key) as admin:
        invalid = await admin.post("/v1/models/tiny/copy", json={})
        unknown = await admin.post("/v1/models/huge/copy", json={"target": "x"})

    assert refused.status_code == 403
    assert (invalid.status_code, invalid.json()["error"]["param"]) == (400, "target")
    assert unknown.status_code == 404
