"""The loop that runs the stack: records events in the state machine and executes its actions.

One asyncio loop owns the state machine and every process. Each service has a task that waits for
its end and, while it starts, a task that repeats its probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Sequence

from services.cli.errors import CommandError
from services.cli.options import StackOptions
from services.cli.paths import StackPaths
from services.cli.supervise import logfiles, state_file
from services.cli.supervise.checks.diagnose import explain
from services.cli.supervise.checks.probes import HttpOk, describe_not_ready, wait_until_ready
from services.cli.supervise.processes import Guard, ServiceProcess
from services.cli.supervise.reporting import Reporter, StartReport, failure_report, ready_text
from services.cli.supervise.stack import ServiceSpec
from services.cli.supervise.state_machine import (
    Action,
    KillService,
    StackStateMachine,
    StartService,
)

logger = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 15.0
# When all services run but a chat would still fail, the reason is reported after this time.
CHAT_READY_TIMEOUT_SECONDS = 30.0
LOG_LINES_SHOWN = 15


class StackSupervisor:
    """Runs one stack, from the first start until the last process has ended."""

    def __init__(
        self,
        paths: StackPaths,
        options: StackOptions,
        services: Sequence[ServiceSpec],
        *,
        ready_probe: HttpOk,
        reporter: Reporter,
        guard: Guard,
    ) -> None:
        self.error: CommandError | None = None  # why the start failed
        self._paths = paths
        self._services = {service.name: service for service in services}
        self._machine = StackStateMachine([service.policy for service in services])
        self._ready_probe = ready_probe
        self._reporter = reporter
        self._guard = guard
        self._processes: dict[str, ServiceProcess] = {}
        self._log_starts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._is_stopping = False
        self._was_reported = False
        self._state = state_file.initial_state(options)

    async def run(self) -> None:
        """Run until all services have ended. Afterwards `error` is set if the start failed."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(name, self._on_signal)
        self._spawn(self._run_housekeeping())
        self._spawn(self._report_ready())
        while not self._machine.is_stopped:
            for action in self._machine.next_actions(time.monotonic()):
                await self._execute(action)
            self._stop_if_start_failed()
            self._publish()
            await self._sleep_until(self._machine.next_deadline())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _execute(self, action: Action) -> None:
        if isinstance(action, StartService):
            await self._start(self._services[action.name])
            return
        process = self._processes[action.name]
        kill = isinstance(action, KillService)
        logger.info("ending a service", extra={"service": action.name, "killed": kill})
        process.kill() if kill else process.terminate()

    async def _start(self, service: ServiceSpec) -> None:
        self._log_starts[service.name] = logfiles.size(service.log)
        try:
            process = await ServiceProcess.start(service)
        except OSError as error:
            extra = {"service": service.name, "reason": error.strerror}
            logger.warning("a service could not be started", extra=extra)
            self._notify(self._machine.record_end, service.name, error.errno or 1)
            return
        self._guard.add(process.pid)
        self._processes[service.name] = process
        ready = self._spawn(self._await_ready(service))
        self._spawn(self._await_end(service.name, process, ready))

    async def _await_end(
        self, name: str, process: ServiceProcess, ready: asyncio.Task[None]
    ) -> None:
        status = await process.wait()
        ready.cancel()
        self._guard.remove(process.pid)
        if not self._is_stopping:
            logger.warning("a service ended", extra={"service": name, "status": status})
        self._notify(self._machine.record_end, name, status)

    async def _await_ready(self, service: ServiceSpec) -> None:
        began = time.monotonic()
        await wait_until_ready(service.probe)
        took = time.monotonic() - began
        logger.info("service ready", extra={"service": service.name, "seconds": round(took, 2)})
        text = f"  {service.name:<8} ready after {took:.1f} s"
        self._reporter.report(StartReport(kind="progress", text=text))
        self._notify(self._machine.record_ready, service.name)
        if self._machine.is_ready:
            self._all_ready.set()

    async def _report_ready(self) -> None:
        """Report once that a chat would succeed, or why it would not."""
        await self._all_ready.wait()
        not_ready_reason = None
        try:
            async with asyncio.timeout(CHAT_READY_TIMEOUT_SECONDS):
                await wait_until_ready(self._ready_probe)
        except TimeoutError:
            not_ready_reason = describe_not_ready((await self._ready_probe.get())[1])
        self._was_reported = True
        self._publish(not_ready_reason)
        self._reporter.report(StartReport(kind="ready", text=ready_text(self._state, self._paths)))

    def _stop_if_start_failed(self) -> None:
        failure = self._machine.failure
        if failure is None or self.error is not None:
            return
        log = self._services[failure.name].log
        start = self._log_starts[failure.name]
        lines = logfiles.last_lines(log, 200, since_byte=start)
        self.error = CommandError(
            explain(failure, lines), details="\n".join(lines[-LOG_LINES_SHOWN:] + [f"(log: {log})"])
        )
        self._reporter.report(failure_report(self.error))
        self._stop()

    def _publish(self, not_ready_reason: str | None = None) -> None:
        state = state_file.next_state(
            self._state,
            phase=self._phase(),
            snapshot=self._machine.snapshot(),
            pids={name: process.pid for name, process in self._processes.items()},
            not_ready_reason=not_ready_reason,
        )
        if state == self._state:
            return
        self._state = state
        try:
            state_file.save(self._paths, state)
        except OSError as error:  # a full disk must not stop the stack
            logger.warning("cannot write the state file", extra={"reason": error.strerror})

    def _phase(self) -> state_file.StackPhase:
        if self._is_stopping:
            return "stopping"
        if not self._was_reported:
            return "starting"
        return "ready" if self._machine.is_ready else "degraded"

    def _notify(self, record: Callable[..., None], *arguments: object) -> None:
        """Record an event in the state machine, and wake the loop."""
        record(*arguments, time.monotonic())
        self._wake.set()

    def _on_signal(self) -> None:
        if self._is_stopping:
            self._machine.stop_quickly(time.monotonic())
        self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        self._notify(self._machine.stop)

    async def _run_housekeeping(self) -> None:
        """Rotate large logs, and replace a guard that was killed."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            await asyncio.to_thread(logfiles.rotate_all, self._paths.logs_dir)
            self._guard.ensure_alive()

    async def _sleep_until(self, deadline: float | None) -> None:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout)
        self._wake.clear()

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
