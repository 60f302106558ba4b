"""The runner program: how it is started to serve a model, and to tell only what one would take."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from services.engine import messages
from services.engine.core import LoadConfig, ModelInfo
from services.engine.front.process.openmp import Spinning
from services.engine.front.process.runner_process import Patience, RunnerLink
from services.shared.errors import ModelLoadFailed, SpindllError, from_wire

RUNNER = (sys.executable, "-m", "services.engine.runner")

_ESTIMATE_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Link(Protocol):
    """A runner that was started; see RunnerLink."""

    @property
    def pid(self) -> int:
        """Of its process."""

    def send(self, command: messages.Command) -> None:
        """Hand over one command."""

    async def stop(self, *, grace_seconds: float) -> None:
        """Let it exit, kill it after the grace time; returned or cancelled, it is gone."""


class Program(Protocol):
    """Something that can be started as a runner."""

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[messages.Report], None],
        on_gone: Callable[[str], None],
    ) -> Link:
        """Start one; it loads and reports. ModelLoadFailed when not even the process starts."""

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        """The sizes of a load, without loading; None where that cannot be found out.

        ModelLoadFailed when the model could not be loaded either.
        """


class RunnerProgram:
    """Program as a child process. `argv` is a parameter for tests."""

    def __init__(self, argv: Sequence[str] = RUNNER, *, patience: Patience) -> None:
        self._argv = tuple(argv)
        self._patience = patience
        self._spinning = Spinning()

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[messages.Report], None],
        on_gone: Callable[[str], None],
    ) -> RunnerLink:
        """See Program."""
        return await self._start(self._argv, config, on_report, on_gone)

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        """See Program."""
        answer: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()

        def on_report(report: messages.Report) -> None:
            if answer.done():
                return
            if isinstance(report, messages.Ready):
                answer.set_result(report.info)
            elif isinstance(report, messages.LoadFailed):
                answer.set_exception(load_error(report))

        def on_gone(why: str) -> None:
            if not answer.done():
                answer.set_exception(ChildProcessError(why))

        link = await self._start((*self._argv, "--estimate"), config, on_report, on_gone)
        try:
            return await asyncio.wait_for(answer, _ESTIMATE_SECONDS)
        except (ChildProcessError, TimeoutError) as error:
            logger.warning("no dry run", extra={"reason": str(error) or "took too long"})
            return None
        finally:
            await link.end("has told what it had to")

    async def _start(
        self,
        argv: Sequence[str],
        config: LoadConfig,
        on_report: Callable[[messages.Report], None],
        on_gone: Callable[[str], None],
    ) -> RunnerLink:
        try:
            return await RunnerLink.start(
                argv,
                config,
                patience=self._patience,
                spinning=self._spinning,
                on_report=on_report,
                on_gone=on_gone,
            )
        except OSError as error:
            logger.error("runner not started", extra={"reason": str(error)})
            raise ModelLoadFailed("the model's process could not be started") from error


def load_error(report: messages.LoadFailed) -> SpindllError:
    """What a runner said, as an error; always one of a failed load."""
    error = from_wire({"code": report.code, "message": report.message})
    return error if isinstance(error, ModelLoadFailed) else ModelLoadFailed(report.message)
