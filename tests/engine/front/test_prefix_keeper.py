"""What a prefix that is computed after a load does when another model waits for the memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.engine.core import Lane
from services.engine.front.cache_index.prefix_files import NamedPrefix, PrefixPrompt
from services.engine.front.cache_index.prompt_cache import PromptCache
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.manager import ModelManager
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.pool import ModelPool
from services.engine.front.prefix_keeper import PrefixKeeper, _Job
from services.shared.errors import EngineUnavailable

PREFIX = NamedPrefix(
    name="rules", tenant="alice", principal="p", model="tiny", model_digest="sha256:1", created=0
)
PROMPT = PrefixPrompt(None, (1, 2, 3))


async def test_it_is_given_up_when_another_model_waits() -> None:
    model = SimpleNamespace(
        state=ModelState.READY, must_yield=False, name="tiny", manifest="the manifest"
    )
    calls: list[tuple[str, Any]] = []

    class Manager:
        def submit(self, manifest: Any, request: Any) -> None:
            calls.append(("submit", request))
            model.must_yield = True

        def cancel(self, manifest: Any, request: Any) -> None:
            calls.append(("cancel", request))

    keeper = PrefixKeeper(cast("ModelPool", None), cast("ModelManager", Manager()), PromptCache())
    job = _Job(PREFIX, PROMPT, "alice", ())
    with pytest.raises(EngineUnavailable):
        await keeper._compute(cast("LoadedModel", model), job, Lane.BATCH)

    (_, submitted), (_, cancelled) = calls
    assert [name for name, _ in calls] == ["submit", "cancel"]
    assert submitted is cancelled
    assert submitted.submit.lane is Lane.BATCH
