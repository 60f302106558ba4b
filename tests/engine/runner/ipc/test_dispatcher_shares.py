"""A principal that floods the dispatcher waits or is refused; others keep their turn and place."""

from __future__ import annotations

from services.engine.messages.commands import (
    Locate,
    Tokenize,
)
from services.engine.messages.reports import (
    Failed,
    Located,
    Tokenized,
)
from tests.engine.runner.child_runner import TIMEOUT_SECONDS, submit
from tests.engine.runner.ipc.dispatching import (
    Setup,
    one_thread,
    submit_constrained,
    to_ids,
)


def test_prefixes_that_are_looked_for_take_no_place_of_other_texts(opened: Setup) -> None:
    text = submit(0, "hello " * 10_000).pieces or ()
    for id_ in (1, 2):
        opened.dispatcher.dispatch(Locate(id=id_, pieces=text, principal="many", cache_keys=()))
    opened.dispatcher.dispatch(Tokenize(3, text))
    opened.gate.set()

    for _ in range(3):
        report = opened.take_report()
        assert isinstance(report, Located | Tokenized)
        assert report.error is None


def test_principals_take_turns(unopened: Setup) -> None:
    """One that floods delays another by the request that is being prepared, and one more."""
    with one_thread(unopened) as dispatcher:
        for id_ in range(1, 6):
            dispatcher.dispatch(submit_constrained(id_, principal="many"))
        assert unopened.building.wait(TIMEOUT_SECONDS)
        dispatcher.dispatch(submit_constrained(6, principal="few"))
        unopened.gate.set()

        assert to_ids(unopened.take_commands(6)) == [1, 2, 6, 3, 4, 5]


def test_texts_to_tokenize_of_one_principal_take_no_place_of_another(opened: Setup) -> None:
    text = submit(0, "hello " * 10_000).pieces or ()
    for id_ in (1, 2, 3):
        opened.dispatcher.dispatch(Tokenize(id_, text, principal="many"))
    opened.dispatcher.dispatch(Tokenize(4, text, principal="few"))
    opened.gate.set()

    reports = [opened.take_report() for _ in range(4)]
    failed = {r.id: r.error is not None for r in reports if isinstance(r, Tokenized)}
    assert failed == {1: False, 2: False, 3: True, 4: False}


def test_a_constrained_request_beyond_max_queued_fails_as_busy(opened: Setup) -> None:
    for id_ in (1, 2, 3):
        opened.dispatcher.dispatch(submit_constrained(id_))
    opened.dispatcher.dispatch(submit(4, "hello"))

    (failed,) = opened.take_events()
    assert isinstance(failed, Failed)
    assert (failed.id, failed.error["code"]) == (3, "engine_busy")
    opened.gate.set()
    first, *prepared = to_ids(opened.take_commands(3))
    assert first == 4
    assert set(prepared) == {1, 2}


def test_constrained_requests_of_one_principal_take_no_place_of_another(opened: Setup) -> None:
    for id_ in (1, 2, 3):
        opened.dispatcher.dispatch(submit_constrained(id_, principal="many"))
    opened.dispatcher.dispatch(submit_constrained(4, principal="few"))

    (failed,) = opened.take_events()
    assert isinstance(failed, Failed)
    assert failed.id == 3
    opened.gate.set()
    assert set(to_ids(opened.take_commands(3))) == {1, 2, 4}


def test_a_request_is_busy_while_texts_of_max_length_are_prepared(opened: Setup) -> None:
    opened.dispatcher.dispatch(submit(1, "x" * (1 << 20)))
    opened.dispatcher.dispatch(submit_constrained(2))

    (failed,) = opened.take_events()
    assert isinstance(failed, Failed)
    assert (failed.id, failed.error["code"]) == (2, "engine_busy")
