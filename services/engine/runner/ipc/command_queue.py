"""The way into a runner: what waits for the loop, and the thread that reads it from the front."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from services.engine import messages
from services.engine.messages import HEADER, MAX_FRAME_BYTES, Cancel, Command, Stop
from services.engine.runner.requests.input_processor import Arrival

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 18
_HANGUP_SECONDS = 2.0  # to leave in good order once the front is gone


@dataclass(frozen=True, slots=True)
class Hangup:
    """The front is gone: nobody wants anything any more."""


Order = Arrival | Cancel | Stop | Hangup


class Inbox:
    """Orders for the loop. Any thread puts, one takes."""

    def __init__(self) -> None:
        self._orders: deque[Order] = deque()  # its own lock: append and popleft are atomic
        self._filled = threading.Event()

    def put(self, order: Order) -> None:
        """Hand an order over; the loop wakes up if it waits."""
        self._orders.append(order)
        self._filled.set()

    def take(self) -> list[Order]:
        """All orders there are, without waiting."""
        if not self._orders:
            return []
        self._filled.clear()  # before emptying: what comes later sets it again
        taken = []
        while self._orders:
            taken.append(self._orders.popleft())
        return taken

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Sleep until there is an order."""
        self._filled.wait(timeout_seconds)


def read_commands(connection: socket.socket) -> Iterator[Command]:
    """The commands of a connection until its end. Raises wire errors as ValueError."""
    buffer = bytearray()
    while data := _receive(connection):
        buffer += data
        start = 0
        while (end := _frame_end(buffer, start)) is not None:
            yield messages.command_decoder.decode(memoryview(buffer)[start + HEADER.size : end])
            start = end
        del buffer[:start]


def start_reading(
    commands: Iterator[Command], inbox: Inbox, accept: Callable[[Command], None]
) -> None:
    """Read on a thread until the front hangs up; `accept` deals with each command, on that thread.

    When the front is gone the process ends, even from inside a long call into the backend.
    """

    def read() -> None:
        try:
            for command in commands:
                accept(command)
        except (ValueError, msgspec.MsgspecError):
            logger.exception("front sent a frame nobody understands")
        inbox.put(Hangup())
        time.sleep(_HANGUP_SECONDS)
        os._exit(0)

    threading.Thread(target=read, name="inbox", daemon=True).start()


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_READ_BYTES)
    except OSError:
        return b""


def _frame_end(buffer: bytearray, start: int) -> int | None:
    """Where the frame that begins at `start` ends, if it is there as a whole."""
    if len(buffer) < start + HEADER.size:
        return None
    (size,) = HEADER.unpack_from(buffer, start)
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes")
    end: int = start + HEADER.size + size
    return end if len(buffer) >= end else None
