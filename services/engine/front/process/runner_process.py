"""The front's end of one runner: its process, its pipe, and the watch over both.

A link lives from `start` to `on_gone`, which is called exactly once, after the process has ended
and the last frame it wrote was handed over. Frames arrive many to a wake-up and are handed to
`on_report` one by one, in order. Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.engine import messages
from services.engine.core import LoadConfig
from services.engine.front.process.frame_reader import Pipe
from services.engine.front.process.huge_pages import with_huge_pages
from services.engine.front.process.openmp import Spinning

_WATCH_SECONDS = 1.0
_LAST_WORDS_SECONDS = 2.0  # from the process's end to the end of its pipe, and the other way round

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a runner may be silent, in seconds."""

    load_stall: float = 300.0  # between two signs of progress while it loads
    beat: float = 15.0  # between two beats once it is ready
    step: float = 300.0  # in one call into the backend


@dataclass(slots=True)
class Vitals:
    """When the runner last gave a sign of life; loop time."""

    is_ready: bool
    last_sign: float
    progress: float = -1.0
    busy_seconds: float = 0.0


def overdue(vitals: Vitals, patience: Patience, now: float) -> str | None:
    """Why this runner is taken for stuck; None while it is not."""
    silent = now - vitals.last_sign
    if not vitals.is_ready:
        return "made no progress loading" if silent > patience.load_stall else None
    if silent > patience.beat:
        return "stopped answering"
    return "was stuck in one step" if vitals.busy_seconds > patience.step else None


class RunnerLink:
    """One runner process, from start to its end."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        end: socket.socket,
        *,
        patience: Patience,
        spinning: Spinning,
        on_report: Callable[[messages.Report], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._process = process
        self._end = end  # of the pipe, ours; under this name the runner is known to `spinning`
        self._patience = patience
        self._spinning = spinning
        self._on_report = on_report
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._vitals = Vitals(is_ready=False, last_sign=self._loop.time())
        self._transport: asyncio.Transport | None = None
        self._pipe_ended = self._loop.create_future()
        self._verdict: str | None = None  # why we killed it, when we did
        self._ended = asyncio.create_task(self._await_end())
        self._watch = self._loop.call_later(_WATCH_SECONDS, self._check, False)

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        config: LoadConfig,
        *,
        patience: Patience,
        spinning: Spinning,
        on_report: Callable[[messages.Report], None],
        on_gone: Callable[[str], None],
    ) -> RunnerLink:
        """Start `argv --fd N` and tell it what to load. OSError: the program cannot be started."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                ours.setblocking(False)
                # A session of its own: Ctrl-C in a terminal is for the front, which then drains.
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    "--fd",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                    env=with_huge_pages(spinning.environment(ours)),
                )
            except BaseException:
                spinning.ended(ours)
                ours.close()
                raise
        link = cls(
            process,
            ours,
            patience=patience,
            spinning=spinning,
            on_report=on_report,
            on_gone=on_gone,
        )
        try:
            await link._connect(ours, config)
        except BaseException:
            await link.end("could not be reached")  # nobody else would wait for it
            raise
        return link

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, command: messages.Command) -> None:
        """Hand over one command; to a runner that is ending it is lost, and on_gone tells."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(messages.encode_frame(command))

    def kill(self, why: str) -> None:
        """End it now. Killing it twice is fine."""
        self._verdict = self._verdict or why
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self, *, grace_seconds: float) -> None:
        """Let it finish what it does and exit; kill it after the grace time, or when cancelled.

        However this returns, the process is gone.
        """
        self.send(messages.Stop(drain_seconds=grace_seconds))
        try:
            await asyncio.wait_for(asyncio.shield(self._ended), grace_seconds + 1)
        except TimeoutError:
            await self.end("did not stop in time")
        except asyncio.CancelledError:
            await self.end("was not given the time to stop")
            raise

    async def end(self, why: str) -> None:
        """Kill it and wait until it is gone; a cancel meanwhile is raised only then.

        A process that nobody waits for would outlive the event loop it belongs to.
        """
        self.kill(why)
        cancel: asyncio.CancelledError | None = None
        while not self._ended.done():
            try:
                await asyncio.shield(self._ended)
            except asyncio.CancelledError as error:
                cancel = error
        if cancel is not None:
            raise cancel

    async def _connect(self, ours: socket.socket, config: LoadConfig) -> None:
        try:
            transport, _ = await self._loop.create_connection(
                lambda: Pipe(self._take, self._garbled, self._pipe_lost), sock=ours
            )
        except BaseException:
            ours.close()
            self._pipe_ended.set_result(None)
            raise
        self._transport = transport
        self.send(messages.Start(config))

    def _take(self, report: messages.Report) -> None:
        """Note the sign of life, then hand over."""
        vitals = self._vitals
        now = self._loop.time()
        if isinstance(report, messages.Heartbeat):
            vitals.busy_seconds = report.busy_seconds
            if vitals.is_ready:
                vitals.last_sign = now
        elif isinstance(report, messages.Ready):
            vitals.is_ready, vitals.last_sign = True, now
        elif isinstance(report, messages.Progress) and report.fraction != vitals.progress:
            vitals.progress, vitals.last_sign = report.fraction, now
        self._on_report(report)

    def _check(self, was_overdue: bool) -> None:
        """Once a second. Twice overdue in a row: our own loop may have been the late one."""
        why = overdue(self._vitals, self._patience, self._loop.time())
        if why is not None and was_overdue:
            logger.error("runner stuck", extra={"pid": self.pid, "reason": why})
            self.kill(why)
            return
        self._watch = self._loop.call_later(_WATCH_SECONDS, self._check, why is not None)

    def _garbled(self, error: Exception) -> None:
        logger.error("runner garbled", extra={"pid": self.pid, "reason": str(error)})
        self.kill("sent something unreadable")

    def _pipe_lost(self) -> None:
        if not self._pipe_ended.done():
            self._pipe_ended.set_result(None)
        # A runner that closed its pipe is on its way out; see that it gets there.
        self._loop.call_later(_LAST_WORDS_SECONDS, self._kill_if_alive)

    def _kill_if_alive(self) -> None:
        if self._process.returncode is None:
            self.kill("closed its pipe")

    async def _await_end(self) -> None:
        status = await self._process.wait()
        self._spinning.ended(self._end)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._pipe_ended), _LAST_WORDS_SECONDS)
        self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._on_gone(self._verdict or _exit_words(status))


def _exit_words(status: int) -> str:
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"
    return "exited" if status == 0 else f"exited with status {status}"
