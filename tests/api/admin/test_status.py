"""GET /v1/status over real HTTP."""

from __future__ import annotations

from tests.api.conftest import Api


async def test_status_reports_what_is_loaded_running_and_queued(api: Api) -> None:
    async with api.client() as client:
        status = (await client.get("/v1/status")).json()

    assert status["models"] == {"total": 1, "loaded": 1, "loaded_models": ["tiny:latest"]}
    assert (status["running"], status["queued"]) == (1, 2)
    assert status["engine"]["models"][0]["state"] == "ready"
    assert status["engine"]["models"][0]["memory_bytes"] == 2**33
    assert "pid" not in str(status)
