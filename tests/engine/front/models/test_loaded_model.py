"""The states of a model: the arrows of its chart are allowed and used, all others are bugs."""

from __future__ import annotations

import itertools

import pytest

from services.engine.front.models.client_request import is_shorter
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.model_state import TRANSITIONS, ModelState
from services.engine.front.models.planning.model_settings import ModelSettings
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel
from tests.fakes.running_pool import running_pool
from tests.virtual_time import run_virtually

PATH_TO = {
    ModelState.LOADING: (),
    ModelState.WAITING: (ModelState.WAITING,),
    ModelState.READY: (ModelState.READY,),
    ModelState.STOPPING: (ModelState.READY, ModelState.STOPPING),
}


async def make_model(state: ModelState) -> LoadedModel:
    model = LoadedModel(
        FakeModel("a", GIB).manifest,
        ModelSettings(),
        FakeMachine(GIB),
        on_requests_finished=lambda _: None,
        on_runner_crashed=lambda _, __: None,
        now=0.0,
    )
    for step in PATH_TO[state]:
        model.move_to(step)
    return model


@pytest.mark.parametrize(("old", "new"), sorted(TRANSITIONS, key=str), ids=str)
async def test_an_arrow_of_the_chart_is_allowed(old: ModelState, new: ModelState) -> None:
    model = await make_model(old)
    model.move_to(new)

    assert model.state is new


@pytest.mark.parametrize(
    ("old", "new"),
    sorted(set(itertools.product(ModelState, ModelState)) - TRANSITIONS, key=str),
    ids=str,
)
async def test_any_other_change_of_state_is_an_assertion_failure(
    old: ModelState, new: ModelState
) -> None:
    model = await make_model(old)

    with pytest.raises(AssertionError):
        model.move_to(new)
    assert model.state is old


def test_loading_and_evicting_use_every_arrow_of_the_chart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: set[tuple[ModelState, ModelState]] = set()
    move_to = LoadedModel.move_to

    def recording_move_to(model: LoadedModel, state: ModelState) -> None:
        used.add((model.state, state))
        move_to(model, state)

    monkeypatch.setattr(LoadedModel, "move_to", recording_move_to)

    async def scenario() -> None:
        models = [FakeModel(name, 6 * GIB) for name in "ab"]
        async with running_pool(FakeMachine(10 * GIB), *models) as running:
            assert await running.ask("a") == "stop"
            assert await running.ask("b") == "stop"

    run_virtually(scenario())

    assert used == TRANSITIONS


@pytest.mark.parametrize(
    ("wanted", "present", "expected"),
    [(0, 300, True), (300, 300, False), (600, 300, False), (-1, 300, False)]
    + [(600, -1, True), (600, None, True), (-1, -1, False)],
)
def test_a_keep_alive_is_shorter_if_the_model_would_leave_earlier(
    wanted: float, present: float | None, expected: bool
) -> None:
    assert is_shorter(wanted, present) is expected
