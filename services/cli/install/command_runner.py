"""Run one command of the set-up: log its output, and show its progress."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from services.cli.install.progress_line import ProgressLine, summarize
from services.cli.install.setup_errors import SetupError, explain

TAIL_LINES = 400
TICK_SECONDS = 0.5


class CommandRunner:
    """Runs commands one after another; their output goes to one log file."""

    def __init__(self, log: Path, progress: ProgressLine) -> None:
        self._log = log
        self._progress = progress

    def run(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Run a command. Raises SetupError with the reason when it fails."""
        status, output = self.attempt(command, env)
        if status != 0:
            raise SetupError(f"{explain(output, status)} (log: {self._log})")

    def attempt(
        self, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> tuple[int, list[str]]:
        """Run a command; its exit status and the last lines of its output."""
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        with self._log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                # A process group of its own: it is killed as a whole when the set-up is stopped.
                start_new_session=True,
            )
            try:
                self._follow(process, log, tail)
                return process.wait(), list(tail)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise

    def _follow(self, process: subprocess.Popen[bytes], log: IO[bytes], tail: deque[str]) -> None:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        rest = b""
        with process.stdout, selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while True:
                if not selector.select(TICK_SECONDS):
                    self._progress.update(None)
                    continue
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    tail.append(rest.decode(errors="replace"))
                    return
                log.write(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    text = line.decode(errors="replace")
                    tail.append(text)
                    self._progress.update(summarize(text))
