"""Starts runner processes: to serve a model, or only to estimate what a load would take."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from services.engine.core import LoadConfig, ModelInfo
from services.engine.front.process.openmp import OpenMPWaitPolicy
from services.engine.front.process.runner_process import RunnerProcess, RunnerTimeouts
from services.engine.messages import commands, reports
from services.shared.errors import ModelLoadFailed, SpindllError, from_wire

RUNNER_COMMAND = (sys.executable, "-m", "services.engine.runner")

_ESTIMATE_TIMEOUT_SECONDS = 60.0

logger = logging.getLogger(__name__)


class RunnerHandle(Protocol):
    """A runner that was started; see RunnerProcess."""

    @property
    def pid(self) -> int:
        """The id of its process."""

    def send(self, command: commands.Command) -> None:
        """Send one command."""

    async def stop(self, *, grace_seconds: float) -> None:
        """Let it exit and kill it after the grace time. The process has ended when this returns.

        That is so as well when the call is cancelled.
        """


class RunnerLauncher(Protocol):
    """Starts runners."""

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
    ) -> RunnerHandle:
        """Start a runner, which loads the model and reports.

        `on_exit` is called once, with the reason. ModelLoadFailed: the process cannot be started.
        """

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        """The sizes of a load, without loading; None where they cannot be found out.

        ModelLoadFailed: a real load would fail as well.
        """


class ProcessLauncher:
    """Starts each runner as a child process. `argv` is a parameter for tests."""

    def __init__(self, argv: Sequence[str] = RUNNER_COMMAND, *, timeouts: RunnerTimeouts) -> None:
        self._argv = tuple(argv)
        self._timeouts = timeouts
        self._wait_policy = OpenMPWaitPolicy()

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
    ) -> RunnerProcess:
        """See RunnerLauncher."""
        return await self._start(self._argv, config, on_report, on_exit)

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        """See RunnerLauncher."""
        result: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()

        def on_report(report: reports.Report) -> None:
            if result.done():
                return
            if isinstance(report, reports.Ready):
                result.set_result(report.info)
            elif isinstance(report, reports.LoadFailed):
                result.set_exception(error_from_report(report))

        def on_exit(reason: str) -> None:
            if not result.done():
                result.set_exception(ChildProcessError(reason))

        runner = await self._start(
            (*self._argv, "--estimate"), config, on_report, on_exit, may_spin=False
        )
        try:
            return await asyncio.wait_for(result, _ESTIMATE_TIMEOUT_SECONDS)
        except (ChildProcessError, TimeoutError) as error:
            logger.warning("no dry run", extra={"reason": str(error) or "took too long"})
            return None
        finally:
            await runner.kill_and_wait("is no longer needed")

    async def _start(
        self,
        argv: Sequence[str],
        config: LoadConfig,
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
        *,
        may_spin: bool = True,
    ) -> RunnerProcess:
        try:
            return await RunnerProcess.start(
                argv,
                config,
                timeouts=self._timeouts,
                wait_policy=self._wait_policy,
                on_report=on_report,
                on_exit=on_exit,
                may_spin=may_spin,
            )
        except OSError as error:
            logger.error("runner not started", extra={"reason": str(error)})
            raise ModelLoadFailed("the model's process could not be started") from error


def error_from_report(report: reports.LoadFailed) -> SpindllError:
    """The error that a runner reported; always a ModelLoadFailed or a subclass of it."""
    error = from_wire({"code": report.code, "message": report.message})
    return error if isinstance(error, ModelLoadFailed) else ModelLoadFailed(report.message)
