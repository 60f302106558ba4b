"""The input of a runner: a thread that reads commands from the front, and a queue for the loop."""

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

from services.engine.messages.commands import Cancel, Command, Stop
from services.engine.messages.frames import HEADER, MAX_FRAME_BYTES, command_decoder
from services.engine.runner.embedding.embedding_processor import PreparedEmbedding
from services.engine.runner.requests.input_processor import PreparedRequest

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 18
_HANGUP_SECONDS = 2.0  # for an orderly exit after the front has gone


@dataclass(frozen=True, slots=True)
class Hangup:
    """The front has closed the connection: the runner has nothing left to do."""


LoopCommand = PreparedRequest | PreparedEmbedding | Cancel | Stop | Hangup


class CommandQueue:
    """Commands for the loop. Any thread puts, one thread takes."""

    def __init__(self) -> None:
        self._commands: deque[LoopCommand] = deque()  # needs no lock: append and popleft are atomic
        self._filled = threading.Event()

    def put(self, command: LoopCommand) -> None:
        """Append a command and wake the loop if it waits."""
        self._commands.append(command)
        self._filled.set()

    def take(self) -> list[LoopCommand]:
        """Remove and return all queued commands, without waiting."""
        # First of all: a later put sets it again, and one that was half done leaves it set with
        # nothing queued, so that `wait` would return at once for ever.
        self._filled.clear()
        taken = []
        while self._commands:
            taken.append(self._commands.popleft())
        return taken

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Block until a command is queued; False if the time is over."""
        return self._filled.wait(timeout_seconds)


def read_commands(connection: socket.socket) -> Iterator[Command]:
    """The commands of a connection, until it ends. Raises ValueError for a malformed frame."""
    buffer = bytearray()
    while data := _receive(connection):
        buffer += data
        start = 0
        while (end := _find_frame_end(buffer, start)) is not None:
            yield command_decoder.decode(memoryview(buffer)[start + HEADER.size : end])
            start = end
        del buffer[:start]


def start_reading(
    commands: Iterator[Command],
    command_queue: CommandQueue,
    dispatch: Callable[[Command], None],
) -> None:
    """Start the thread that reads until the front hangs up; it calls `dispatch` for each command.

    When the front has gone, the process ends, even during a long call into the backend.
    """

    def read() -> None:
        try:
            for command in commands:
                dispatch(command)
        except (ValueError, msgspec.MsgspecError):
            logger.exception("invalid frame from the engine front")
        command_queue.put(Hangup())
        time.sleep(_HANGUP_SECONDS)
        os._exit(0)

    threading.Thread(target=read, name="command-reader", daemon=True).start()


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_READ_BYTES)
    except OSError:
        return b""


def _find_frame_end(buffer: bytearray, start: int) -> int | None:
    """Where the frame that begins at `start` ends; None while part of it is missing."""
    if len(buffer) < start + HEADER.size:
        return None
    (size,) = HEADER.unpack_from(buffer, start)
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes")
    end: int = start + HEADER.size + size
    return end if len(buffer) >= end else None
