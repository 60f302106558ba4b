"""Start and signal the processes of the services, and keep the guard informed. Effects only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from services.cli.supervise.logfiles import open_log
from services.cli.supervise.process_sessions import kill_session
from services.cli.supervise.stack import ROOT, ServiceSpec


class Guard:
    """The supervisor's side of the guard process (guard.py)."""

    def __init__(self, lock: int, files: Iterable[Path]) -> None:
        self._lock = lock
        self._files = [str(file) for file in files]
        self._running: list[int] = []
        self._process = self._start()

    def add(self, pid: int) -> None:
        """A service has started."""
        self._running.append(pid)
        self._write(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """A service has ended."""
        self._running.remove(pid)
        self._write(f"-{pid}\n")

    def ensure_alive(self) -> None:
        """Start another guard if this one was killed."""
        if self._process.poll() is None:
            return
        self._process = self._start()
        self._write("".join(f"+{pid}\n" for pid in self._running))

    def dismiss(self) -> None:
        """Let the guard remove its files and end. Call it when all services have ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # ensure_alive replaces it
            self._process.stdin.write(text.encode())

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "services.cli.supervise.guard", *self._files],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=(self._lock,),
            start_new_session=True,
        )


class ServiceProcess:
    """One running process of a service."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, service: ServiceSpec) -> ServiceProcess:
        """Start a service as the leader of a session of its own. Raises OSError."""
        for socket in service.sockets:
            socket.unlink(missing_ok=True)
        log = open_log(service.log)
        try:
            process = await asyncio.create_subprocess_exec(
                *service.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=service.environment,
                start_new_session=True,
            )
        finally:
            os.close(log)
        return cls(process)

    async def wait(self) -> int:
        """Wait until the process has ended, kill the rest of its session; its exit status."""
        status = await self._process.wait()
        # Workers whose master was killed would keep its port.
        await asyncio.to_thread(kill_session, self.pid)
        return status

    def terminate(self) -> None:
        """Send SIGTERM."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL; `wait` kills the rest of its session."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
