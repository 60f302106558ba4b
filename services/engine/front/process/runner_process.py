"""The front's side of one runner: its process, its pipe, and the check that it is not stuck.

A RunnerProcess lives from `start` to `on_exit`, which is called exactly once, after the process has
ended and its last frame was reported. One read may hold many frames; they are passed to `on_report`
one by one, in order. Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.engine.core import LoadConfig
from services.engine.front.process.frame_reader import FrameReader
from services.engine.front.process.huge_pages import request_huge_pages
from services.engine.front.process.openmp import OpenMPWaitPolicy
from services.engine.front.process.visible_devices import show_devices
from services.engine.messages import commands, reports
from services.engine.messages.frames import encode_frame

_CHECK_SECONDS = 1.0
KILL_TIMEOUT_SECONDS = 30.0  # from SIGKILL to the end of the process
_CLOSE_SECONDS = 2.0  # from the end of the process to the end of its pipe, and the other way round

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerTimeouts:
    """How long a runner may be silent, in seconds. Named like the settings."""

    load_stall_seconds: float = 300.0  # without progress while it loads
    beat_deadline_seconds: float = 15.0  # without a heartbeat once it is ready
    step_deadline_seconds: float = 300.0  # in one call into the backend


@dataclass(slots=True)
class HeartbeatState:
    """What the runner reported last, and when (loop time)."""

    is_ready: bool
    last_heartbeat_at: float  # while it loads: when it last made progress
    progress: float = -1.0
    busy_seconds: float = 0.0


def find_timeout(state: HeartbeatState, timeouts: RunnerTimeouts, now: float) -> str | None:
    """Why the runner counts as stuck; None while it does not."""
    silent_seconds = now - state.last_heartbeat_at
    if not state.is_ready:
        has_stalled = silent_seconds > timeouts.load_stall_seconds
        return "made no progress loading" if has_stalled else None
    if silent_seconds > timeouts.beat_deadline_seconds:
        return "stopped answering"
    is_stuck = state.busy_seconds > timeouts.step_deadline_seconds
    return "was stuck in one step" if is_stuck else None


class RunnerProcess:
    """One runner process, from its start to its end."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        pipe: socket.socket,
        *,
        timeouts: RunnerTimeouts,
        wait_policy: OpenMPWaitPolicy,
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
    ) -> None:
        self._process = process
        self._pipe = pipe  # the front's end; it identifies the runner to the wait policy
        self._timeouts = timeouts
        self._wait_policy = wait_policy
        self._on_report = on_report
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._heartbeat = HeartbeatState(is_ready=False, last_heartbeat_at=self._loop.time())
        self._transport: asyncio.Transport | None = None
        self._pipe_closed = self._loop.create_future()
        self._kill_reason: str | None = None  # set when the front kills it
        self._ended = asyncio.create_task(self._wait_for_end())
        self._next_check = self._loop.call_later(_CHECK_SECONDS, self._check, False)

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        config: LoadConfig,
        *,
        timeouts: RunnerTimeouts,
        wait_policy: OpenMPWaitPolicy,
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
        may_spin: bool = True,
    ) -> RunnerProcess:
        """Start `argv --fd N` and send the Start command. OSError: the program does not start.

        `may_spin`: whether it computes, and so may be the runner whose threads spin.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                ours.setblocking(False)
                environment = wait_policy.build_environment(ours, may_spin=may_spin)
                # A session of its own: Ctrl-C in a terminal is for the front, which then drains.
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    "--fd",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                    env=show_devices(request_huge_pages(environment), config.devices),
                )
            except BaseException:
                wait_policy.release(ours)
                ours.close()
                raise
        runner = cls(
            process,
            ours,
            timeouts=timeouts,
            wait_policy=wait_policy,
            on_report=on_report,
            on_exit=on_exit,
        )
        try:
            await runner._connect(config)
        except BaseException:
            await runner.kill_and_wait("could not be reached")  # the caller has no handle to it
            raise
        return runner

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def send(self, command: commands.Command) -> None:
        """Send one command. A runner that is ending drops it; `on_exit` reports the end."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(command))

    def kill(self, reason: str) -> None:
        """Send SIGKILL to it and its children. The first reason counts; a second call is fine."""
        self._kill_reason = self._kill_reason or reason
        if self._process.returncode is None:
            # PermissionError: macOS, for a group whose processes have all ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, *, grace_seconds: float) -> None:
        """Let it finish its requests and exit; kill it after the grace time or when cancelled.

        The process has ended when this returns or raises, unless it cannot be killed.
        """
        self.send(commands.Stop(drain_seconds=grace_seconds))
        try:
            await asyncio.wait_for(asyncio.shield(self._ended), grace_seconds + 1)
        except TimeoutError:
            await self.kill_and_wait("did not stop in time")
        except asyncio.CancelledError:
            await self.kill_and_wait("was not given the time to stop")
            raise

    async def kill_and_wait(self, reason: str) -> None:
        """Kill it and wait until it has ended. A cancellation is raised only after that.

        A process that is not waited for would outlive the event loop that it belongs to. But one
        that hangs inside a driver cannot be killed: it is given up after a time. Its memory then
        counts as that of another program.
        """
        self.kill(reason)
        cancel: asyncio.CancelledError | None = None
        deadline = self._loop.time() + KILL_TIMEOUT_SECONDS
        while not self._ended.done() and (left := deadline - self._loop.time()) > 0:
            try:
                await asyncio.wait({self._ended}, timeout=left)
            except asyncio.CancelledError as error:
                cancel = error
        if not self._ended.done():
            logger.error("runner cannot be killed", extra={"pid": self.pid})
        if cancel is not None:
            raise cancel

    async def _connect(self, config: LoadConfig) -> None:
        try:
            transport, _ = await self._loop.create_connection(
                lambda: FrameReader(self._receive, self._on_invalid_data, self._on_pipe_closed),
                sock=self._pipe,
            )
        except BaseException:
            self._pipe.close()
            self._pipe_closed.set_result(None)
            raise
        self._transport = transport
        self.send(commands.Start(config))

    def _receive(self, report: reports.Report) -> None:
        """Update the heartbeat state, then pass the report on."""
        heartbeat = self._heartbeat
        now = self._loop.time()
        if isinstance(report, reports.Heartbeat):
            heartbeat.busy_seconds = report.busy_seconds
            if heartbeat.is_ready:
                heartbeat.last_heartbeat_at = now
        elif isinstance(report, reports.Ready):
            heartbeat.is_ready, heartbeat.last_heartbeat_at = True, now
        elif isinstance(report, reports.Progress) and report.fraction != heartbeat.progress:
            heartbeat.progress, heartbeat.last_heartbeat_at = report.fraction, now
        try:
            self._on_report(report)
        except Exception:  # a bug of the front must not end the runner, as asyncio would do
            logger.exception("report of a runner not handled", extra={"pid": self.pid})

    def _check(self, was_stuck: bool) -> None:  # noqa: FBT001, call_later passes it by position
        """Kill a runner that is stuck in two checks in a row.

        In the first one, this process's own event loop may have been the late one.
        """
        reason = find_timeout(self._heartbeat, self._timeouts, self._loop.time())
        if reason is not None and was_stuck:
            logger.error("runner stuck", extra={"pid": self.pid, "reason": reason})
            self.kill(reason)
            return
        self._next_check = self._loop.call_later(_CHECK_SECONDS, self._check, reason is not None)

    def _on_invalid_data(self, error: Exception) -> None:
        logger.error("runner sent invalid data", extra={"pid": self.pid, "reason": str(error)})
        self.kill("sent something unreadable")

    def _on_pipe_closed(self) -> None:
        if not self._pipe_closed.done():
            self._pipe_closed.set_result(None)
        # A runner that has closed its pipe is about to exit. Make sure that it does.
        self._loop.call_later(_CLOSE_SECONDS, self._kill_if_alive)

    def _kill_if_alive(self) -> None:
        if self._process.returncode is None:
            self.kill("closed its pipe")

    async def _wait_for_end(self) -> None:
        status = await self._process.wait()
        self._wait_policy.release(self._pipe)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._pipe_closed), _CLOSE_SECONDS)
        self._next_check.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._on_exit(self._kill_reason or _describe_exit(status))


def _describe_exit(status: int) -> str:
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"
    return "exited" if status == 0 else f"exited with status {status}"
