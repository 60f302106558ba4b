"""A real puller process answers searches while its only worker is busy with a download."""

from __future__ import annotations

import msgspec

from services.shared.puller_rpc.search import SearchAnswer, SearchQuery
from services.shared.pulls.job import JobState
from services.shared.redis import redis_keys
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.hub import Hub
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import PullTestbed
from tests.puller.processes import PullerProcess, wait_for


def test_a_search_does_not_wait_behind_a_download(
    testbed: PullTestbed, hub: Hub, cdn: LoopbackServer
) -> None:
    hub.add("owner/tiny-GGUF", {"t-Q4_K_M.gguf": b"x" * 4}, tags=("gguf",))
    cdn.plan.faults = [Fault(stall_at=1000, times=ALWAYS)]
    job = testbed.submit("tiny:f16")
    puller = PullerProcess(testbed, HF_ENDPOINT=hub.url, PULL_TIMEOUT_SECONDS="60")
    try:
        wait_for(lambda: testbed.job_store.get(job.id).downloaded_bytes)
        query = SearchQuery(id="q", text="tiny", limit=5)
        wait_for(
            lambda: testbed.client.publish(redis_keys.SEARCHES, msgspec.json.encode(query)) or None
        )
        reply = wait_for(lambda: testbed.client.lpop(redis_keys.search_answer("q")))
        state = testbed.job_store.get(job.id).state
    finally:
        status = puller.stop()

    assert isinstance(reply, bytes)
    answer = msgspec.json.decode(reply, type=SearchAnswer)
    assert [hit.name for hit in answer.hits] == ["owner/tiny-GGUF:Q4_K_M"]
    assert (state, status) == (JobState.RUNNING, 0)
