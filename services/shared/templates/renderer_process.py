"""The parent's side of one process that renders: start it, ask it, kill it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import services
from services.shared.templates.frames import (
    MAX_ANSWER_BYTES,
    Answer,
    receive_frame,
    send_frame,
)

_COMMAND = (sys.executable, "-m", "services.shared.templates.renderer_main")
# What the interpreter and the clock need. Everything else may be a secret.
_ENVIRONMENT = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "TZ")
_END_SECONDS = 5.0  # from the end of its stream to the end of a process


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """What one render, or one probe, may take."""

    cpu_seconds: float = 2.0
    memory_bytes: int = 256 << 20  # of address space, with the interpreter; not on macOS
    wall_seconds: float = 30.0  # for a machine with other things to do


class Reason(Enum):
    """Why a process has ended."""

    CPU_TIME = "cpu time"
    MEMORY = "memory"
    WALL_TIME = "wall time"
    KILLED = "killed"  # from outside, as the kernel does when the machine has no more memory
    CRASH = "crash"


class ProcessEnded(Exception):
    """The process has ended and gives no answer."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class RendererProcess:
    """One process. One thread may ask at a time; any thread may close it."""

    def __init__(self, limits: RenderLimits) -> None:
        """Start it. OSError: the program does not start."""
        self.known: set[int] = set()  # the ids of the templates that it has opened
        self._has_ended = False
        self._is_ready = False
        self._wall_seconds = limits.wall_seconds
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _start(theirs.fileno(), limits)
            except BaseException:
                self._socket.close()
                raise

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return not self._has_ended and self._process.poll() is None

    def ask(self, frame: bytes) -> tuple[Answer, bytes]:
        """The answer to one request. Raises ProcessEnded."""
        deadline = time.monotonic() + self._wall_seconds
        reason = None
        answer: bytes | None = None
        try:
            if not self._is_ready:
                self._is_ready = self._receive(deadline) is not None
            self._socket.settimeout(self._wall_seconds)
            send_frame(self._socket, frame)
            answer = self._receive(deadline)
        except TimeoutError:
            reason = Reason.WALL_TIME
        except (OSError, ValueError):  # it has ended, or sends what no template of ours sends
            reason = None
        if answer and answer[:1] != Answer.OUT_OF_MEMORY.value:
            return Answer(answer[:1]), answer[1:]
        self._has_ended = True
        raise ProcessEnded(reason or (Reason.MEMORY if answer else self._wait_for_end()))

    def close(self) -> None:
        """Kill it. A thread that asks gets ProcessEnded. May be called twice."""
        self._has_ended = True
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _receive(self, deadline: float) -> bytes | None:
        return receive_frame(self._socket, max_bytes=MAX_ANSWER_BYTES, deadline=deadline)

    def _wait_for_end(self) -> Reason:
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return Reason.CRASH
        if status == -signal.SIGPROF:
            return Reason.CPU_TIME
        return Reason.KILLED if status == -signal.SIGKILL else Reason.CRASH


def _start(descriptor: int, limits: RenderLimits) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *_COMMAND,
            f"--fd={descriptor}",
            f"--cpu-seconds={limits.cpu_seconds}",
            f"--memory-bytes={limits.memory_bytes}",
        ],
        pass_fds=(descriptor,),
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        cwd=Path(services.__file__).parents[1],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal is for the service
    )
