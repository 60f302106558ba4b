"""The states of a model: the arrows of the chart are allowed and used, every other one is a bug."""

from __future__ import annotations

import itertools

import pytest

from services.engine.front.models.loaded_model import TRANSITIONS, Model, State
from services.engine.front.models.model_settings import ModelSettings
from tests.fakes.fake_machine import GIB, FakeModel, World, bench
from tests.virtual_time import run_virtually

PATH_TO = {
    State.LOADING: (),
    State.WAITING: (State.WAITING,),
    State.READY: (State.READY,),
    State.STOPPING: (State.READY, State.STOPPING),
}


async def make_model(state: State) -> Model:
    model = Model(
        FakeModel("a", GIB).manifest,
        ModelSettings(),
        World(GIB),
        on_requests_finished=lambda _: None,
        on_runner_crashed=lambda _, __: None,
        now=0.0,
    )
    for step in PATH_TO[state]:
        model.move_to(step)
    return model


@pytest.mark.parametrize(("old", "new"), sorted(TRANSITIONS, key=str), ids=str)
async def test_an_arrow_of_the_chart_is_allowed(old: State, new: State) -> None:
    model = await make_model(old)
    model.move_to(new)

    assert model.state is new


@pytest.mark.parametrize(
    ("old", "new"), sorted(set(itertools.product(State, State)) - TRANSITIONS, key=str), ids=str
)
async def test_any_other_change_of_state_is_an_assertion_failure(old: State, new: State) -> None:
    model = await make_model(old)

    with pytest.raises(AssertionError):
        model.move_to(new)
    assert model.state is old


def test_loading_and_evicting_use_every_arrow_of_the_chart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: set[tuple[State, State]] = set()
    move_to = Model.move_to

    def recording_move_to(model: Model, state: State) -> None:
        used.add((model.state, state))
        move_to(model, state)

    monkeypatch.setattr(Model, "move_to", recording_move_to)

    async def scenario() -> None:
        async with bench(World(10 * GIB), FakeModel("a", 6 * GIB), FakeModel("b", 6 * GIB)) as b:
            assert await b.ask("a") == "stop"
            assert await b.ask("b") == "stop"

    run_virtually(scenario())

    assert used == TRANSITIONS
