from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from services.engine.core import Counters, FinishReason, TokenLogprob
from services.engine.messages.commands import Cancel, Command, Stop
from services.engine.messages.frames import HEADER, MAX_FRAME_BYTES, encode_frame, report_decoder
from services.engine.messages.reports import (
    Delta,
    Finished,
    Heartbeat,
    Report,
    StepReport,
    Tokenized,
)
from services.engine.runner.ipc.command_queue import read_commands
from services.engine.runner.ipc.report_writer import ReportWriter


@pytest.fixture
def pipe() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def read_all(connection: socket.socket) -> list[Report]:
    """Every report until the other end closes."""
    data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    reports = []
    while data:
        (size,) = HEADER.unpack_from(data)
        reports.append(report_decoder.decode(data[HEADER.size : HEADER.size + size]))
        data = data[HEADER.size + size :]
    return reports


def delta(id_: int, text: str, index: int = 0, **changes: object) -> Delta:
    return Delta(id_, index, text, 1, **changes)  # type: ignore[arg-type]


def finished(id_: int) -> Finished:
    return Finished(id_, 0, FinishReason.STOP, 1, 0, 1, 0.0, 0.0, 0.0)


def heartbeat(steps: int) -> Heartbeat:
    return Heartbeat(0.0, 0, 0, 0, Counters(steps=steps))


def test_one_step_is_one_frame(pipe: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pipe
    report_writer = ReportWriter(ours)
    report_writer.post([delta(1, "a"), delta(2, "b")])
    report_writer.post([])
    report_writer.close(10)
    ours.shutdown(socket.SHUT_WR)

    assert read_all(theirs) == [StepReport([delta(1, "a"), delta(2, "b")])]


def test_deltas_of_an_answer_are_merged_while_the_front_does_not_read(
    pipe: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pipe
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    report_writer = ReportWriter(ours)
    entry = TokenLogprob(5, b"x", -0.5)
    for step in range(20_000):
        report_writer.post([delta(id_, "x", logprobs=(entry,)) for id_ in (1, 2)])
        if step % 1000 == 0:
            report_writer.send(heartbeat(step))
    report_writer.post([finished(1), finished(2)])
    report_writer.send(heartbeat(99))
    ours_closed = False
    reports: list[Report] = []
    buffer = b""
    while not ours_closed:
        buffer += theirs.recv(1 << 16)
        while len(buffer) >= HEADER.size:
            (size,) = HEADER.unpack_from(buffer)
            if len(buffer) < HEADER.size + size:
                break
            reports.append(report_decoder.decode(buffer[HEADER.size : HEADER.size + size]))
            buffer = buffer[HEADER.size + size :]
        ours_closed = reports[-1:] == [heartbeat(99)]

    events = [
        event for report in reports if isinstance(report, StepReport) for event in report.events
    ]
    texts = {1: "", 2: ""}
    tokens = logprobs = 0
    for event in events:
        if isinstance(event, Delta):
            texts[event.id] += event.text
            tokens += event.tokens
            logprobs += len(event.logprobs)
    assert texts == {1: "x" * 20_000, 2: "x" * 20_000}
    assert tokens == logprobs == 40_000
    assert events[-2:] == [finished(1), finished(2)]
    assert len(events) < 10_000
    assert sum(isinstance(report, Heartbeat) for report in reports) <= 21


@pytest.mark.usefixtures("short_switch_interval")
def test_threads_that_report_at_the_same_time_lose_nothing(
    pipe: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pipe
    report_writer = ReportWriter(ours)
    count, threads = 2_000, (1, 2, 3)

    def report(id_: int) -> None:
        for step in range(count):
            report_writer.post([delta(id_, f"{step} ")])
            if step % 100 == 0:
                report_writer.send(Tokenized(id_, (step,)))
        report_writer.post([finished(id_)])

    reporters = [threading.Thread(target=report, args=(id_,)) for id_ in threads]
    reports: list[Report] = []
    reader = threading.Thread(target=lambda: reports.extend(read_all(theirs)))
    for thread in (reader, *reporters):
        thread.start()
    for thread in reporters:
        thread.join()
    report_writer.close(10)
    ours.shutdown(socket.SHUT_WR)
    reader.join()

    events = [
        event for report in reports if isinstance(report, StepReport) for event in report.events
    ]
    for id_ in threads:
        mine = [event for event in events if event.id == id_]
        text = "".join(event.text for event in mine if isinstance(event, Delta))
        assert text == "".join(f"{step} " for step in range(count))
        assert mine[-1] == finished(id_)
        tokenized = [r.ids for r in reports if isinstance(r, Tokenized) and r.id == id_]
        assert tokenized == [(step,) for step in range(0, count, 100)]


def test_events_for_a_closed_front_are_dropped_without_an_error(
    pipe: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pipe
    report_writer = ReportWriter(ours)
    theirs.close()
    for _ in range(1000):
        report_writer.post([delta(1, "x")])

    report_writer.close(10)


def test_commands_are_read_however_their_bytes_are_split(
    pipe: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pipe
    sent: list[Command] = [
        Cancel((1, 2)),
        Stop(1.5),
        Cancel(tuple(range(300))),
    ]
    data = b"".join(encode_frame(command) for command in sent)
    for byte in range(0, len(data), 7):
        theirs.sendall(data[byte : byte + 7])
    theirs.shutdown(socket.SHUT_WR)

    assert list(read_commands(ours)) == sent


def test_a_frame_that_is_too_large_is_an_error(pipe: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pipe
    theirs.sendall(HEADER.pack(MAX_FRAME_BYTES + 1))

    with pytest.raises(ValueError, match="bytes"):
        next(read_commands(ours))
