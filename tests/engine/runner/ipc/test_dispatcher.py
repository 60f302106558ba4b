"""What takes long to prepare delays no other request, and a Cancel or a Stop also reaches it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from services.engine.core import Sampling
from services.engine.messages.commands import (
    Cancel,
    Detokenize,
    Embed,
    EmbedInput,
    Start,
    Stop,
    Submit,
    Tokenize,
)
from services.engine.messages.frames import HEADER, report_decoder
from services.engine.messages.reports import (
    Detokenized,
    Failed,
    Tokenized,
)
from services.engine.runner.ipc.dispatcher import Dispatcher
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.requests.input_processor import PreparedRequest
from tests.engine.runner.child_runner import TIMEOUT_SECONDS, fake_config, submit
from tests.engine.runner.ipc.dispatching import (
    LETTERS,
    Setup,
    one_thread,
    submit_constrained,
    to_ids,
)

REQUESTS = 300


SLOW = {
    "constraint": submit_constrained(1),
    "dry": submit(1, "hello", sampling=Sampling(dry_multiplier=0.8)),
    "long text": submit(1, "hello " * 10_000),
}


@pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW.keys())
def test_what_takes_long_to_prepare_delays_no_other_command(opened: Setup, slow: Submit) -> None:
    opened.dispatcher.dispatch(slow)
    opened.dispatcher.dispatch(submit(2, "hello"))
    opened.dispatcher.dispatch(Cancel((2,)))

    assert to_ids(opened.command_queue.take()) == [2, Cancel((2,))]


@pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW.keys())
def test_a_cancel_is_queued_once_and_behind_its_request(opened: Setup, slow: Submit) -> None:
    opened.dispatcher.dispatch(submit(2, "hello"))
    opened.dispatcher.dispatch(slow)
    opened.dispatcher.dispatch(Cancel((1, 2, 3)))

    assert to_ids(opened.command_queue.take()) == [2, Cancel((2, 3))]
    opened.gate.set()
    if slow is SLOW["long text"]:  # it does not fit the context
        assert to_ids(opened.take_commands(1)) == [Cancel((1,))]
        (failed,) = opened.take_events()
        assert isinstance(failed, Failed)
        assert (failed.id, failed.error["code"]) == (1, "context_length_exceeded")
    else:
        assert to_ids(opened.take_commands(2)) == [1, Cancel((1,))]


def test_a_long_text_is_tokenized_while_other_requests_pass(opened: Setup) -> None:
    text = submit(0, "hello " * 10_000).pieces or ()
    opened.dispatcher.dispatch(Tokenize(1, text))
    opened.dispatcher.dispatch(submit(2, "hello"))

    assert to_ids(opened.command_queue.take()) == [2]
    opened.gate.set()
    opened.dispatcher.close()
    tokenized = opened.take_report()
    assert isinstance(tokenized, Tokenized)
    assert (tokenized.id, len(tokenized.ids)) == (1, 60_000)


def test_texts_to_embed_that_are_cancelled_while_they_wait_are_not_prepared(
    unopened: Setup,
) -> None:
    long = EmbedInput("hello " * 10_000)
    with one_thread(unopened) as dispatcher:
        dispatcher.dispatch(submit_constrained(1))
        assert unopened.building.wait(TIMEOUT_SECONDS)
        dispatcher.dispatch(Embed(id=2, inputs=(long,)))
        dispatcher.dispatch(Stop())
        dispatcher.dispatch(Cancel((2,)))
        unopened.gate.set()

        # An embedding that is prepared fails here: this dispatcher has no processor for it.
        assert to_ids(unopened.take_commands(2)) == [1, Stop()]


def test_many_tokens_are_read_while_other_requests_pass(opened: Setup) -> None:
    opened.dispatcher.dispatch(Detokenize(1, (ord("a"),) * 60_000))
    opened.dispatcher.dispatch(submit(2, "hello"))

    assert to_ids(opened.command_queue.take()) == [2]
    opened.gate.set()
    opened.dispatcher.close()
    size = HEADER.unpack(opened.front.recv(HEADER.size, socket.MSG_WAITALL))[0]
    report = report_decoder.decode(opened.front.recv(size, socket.MSG_WAITALL))
    assert report == Detokenized(1, "a" * 60_000)


def test_a_long_infill_is_tokenized_while_other_requests_pass(opened: Setup) -> None:
    opened.dispatcher.dispatch(submit(1, infill=("a", "b" * 60_000)))
    opened.dispatcher.dispatch(submit(2, "hello"))

    assert to_ids(opened.command_queue.take()) == [2]
    opened.gate.set()
    opened.dispatcher.close()


def test_a_stop_is_queued_behind_requests_in_preparation(opened: Setup) -> None:
    stop = Stop(drain_seconds=1.0)
    opened.dispatcher.dispatch(submit_constrained(1))
    opened.dispatcher.dispatch(stop)

    assert opened.command_queue.take() == []
    opened.gate.set()
    assert to_ids(opened.take_commands(2)) == [1, stop]


def test_the_deadline_counts_while_other_requests_are_prepared(opened: Setup) -> None:
    opened.dispatcher.dispatch(submit_constrained(1))
    opened.dispatcher.dispatch(submit(2, "hello", constraint=LETTERS, deadline_seconds=5.0))
    sent = time.monotonic()
    opened.gate.set()

    deadlines = [
        command.request.deadline
        for command in opened.take_commands(2)
        if isinstance(command, PreparedRequest) and command.request.id == 2
    ]
    assert deadlines[0] is not None
    assert deadlines[0] <= sent + 5


@pytest.mark.parametrize("command", [Cancel((1,)), Stop(drain_seconds=1.0)])
def test_a_command_is_queued_once_when_no_request_is_in_preparation(
    opened: Setup, command: Cancel | Stop
) -> None:
    opened.dispatcher.dispatch(command)

    assert opened.command_queue.take() == [command]


def test_close_waits_for_the_request_in_preparation(opened: Setup) -> None:
    opened.dispatcher.dispatch(submit_constrained(1))
    assert opened.building.wait(TIMEOUT_SECONDS)
    closing = threading.Thread(target=opened.dispatcher.close)
    closing.start()
    assert opened.command_queue.take() == []
    opened.gate.set()
    closing.join(TIMEOUT_SECONDS)

    assert not closing.is_alive()
    assert to_ids(opened.command_queue.take()) == [1]


@pytest.mark.parametrize(
    "late",
    [
        lambda: submit(2, "hello"),
        lambda: submit_constrained(2),
        lambda: Tokenize(3, submit(0, "hello").pieces or (), add_special=False),
    ],
)
def test_commands_after_close_are_ignored(opened: Setup, late: Callable[[], Submit]) -> None:
    opened.dispatcher.close()
    opened.dispatcher.dispatch(late())

    assert opened.command_queue.take() == []


def test_a_second_start_is_an_error(opened: Setup) -> None:
    with pytest.raises(ValueError, match="once"):
        opened.dispatcher.dispatch(Start(fake_config()))


def test_a_request_waits_until_the_model_is_loaded(unopened: Setup) -> None:
    hello = submit(1, "hello")
    reading = threading.Thread(target=unopened.dispatcher.dispatch, args=(hello,), daemon=True)
    reading.start()
    unopened.dispatcher.dispatch(Cancel((9,)))
    assert unopened.command_queue.take() == [Cancel((9,))]

    unopened.dispatcher.open(unopened.input_processor)
    reading.join(TIMEOUT_SECONDS)
    assert to_ids(unopened.command_queue.take()) == [1]


@pytest.mark.usefixtures("short_switch_interval")
def test_every_request_is_queued_once_and_before_its_cancel(unopened: Setup) -> None:
    """The reading thread and the preparing ones race for what is in preparation."""
    unopened.gate.set()
    command_queue = unopened.command_queue
    dispatcher = Dispatcher(
        command_queue, ReportWriter(unopened.front), max_queued=REQUESTS, max_length=1 << 20
    )
    dispatcher.open(unopened.input_processor)
    for id_ in range(REQUESTS):
        dispatcher.dispatch(submit_constrained(id_) if id_ % 3 else submit(id_, "hello"))
        dispatcher.dispatch(Cancel((id_, id_ - 5)))
    dispatcher.dispatch(Stop())

    places: dict[object, list[int]] = {}
    place = 0
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while Stop() not in places and time.monotonic() < deadline:
        command_queue.wait(0.1)
        for command in command_queue.take():
            keys = command.ids if isinstance(command, Cancel) else ()
            for key in [f"cancel {id_}" for id_ in keys] or to_ids([command]):
                places.setdefault(key, []).append(place)
            place += 1
    dispatcher.close()

    assert all(len(places[id_]) == 1 for id_ in range(REQUESTS))
    assert all(min(places[f"cancel {id_}"]) > places[id_][0] for id_ in range(REQUESTS))
    assert places[Stop()] == [place - 1]
