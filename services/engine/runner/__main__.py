"""A runner process: `python -m services.engine.runner --fd N [--estimate]`.

The front starts it with one end of a socket pair as descriptor N and writes `Start` first. Exit
status: 0 as told or because the front is gone, 1 after a load that failed or a backend that does.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import psutil

from services.engine.backends import estimate, open_backend
from services.engine.core import Counters, LoadConfig
from services.engine.messages import (
    Command,
    Heartbeat,
    LoadFailed,
    Progress,
    Ready,
    Start,
)
from services.engine.runner.build import build_intake, build_loop
from services.engine.runner.ipc.command_queue import Inbox, read_commands, start_reading
from services.engine.runner.ipc.dispatcher import Desk
from services.engine.runner.ipc.heartbeat import start_beating
from services.engine.runner.ipc.report_writer import Outbox
from services.shared.errors import ModelLoadFailed
from services.shared.logs import set_up_logs
from services.shared.malloc_trim import start_trimming
from services.shared.settings import SharedSettings, read_settings

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 5.0  # for the last frames, when the pipe is slow
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Load what `Start` says, answer until told to stop."""
    parser = argparse.ArgumentParser(prog="services.engine.runner")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the front")
    parser.add_argument("--estimate", action="store_true", help="only tell what a load would take")
    options = parser.parse_args()
    settings = read_settings(SharedSettings)
    set_up_logs("runner", level=settings.log_level, fmt=settings.log_format)
    _behave_as_child()
    with socket.socket(fileno=options.fd) as connection:
        commands = read_commands(connection)
        start = next(commands, None)
        if not isinstance(start, Start):
            return 0 if start is None else 1
        outbox = Outbox(connection)
        try:
            if options.estimate:
                outbox.send(Ready(estimate(start.config)))
                return 0
            return _serve(start.config, commands, outbox)
        except ModelLoadFailed as error:
            outbox.send(LoadFailed(error.code, error.message))
            return 1
        finally:
            outbox.close(_FLUSH_SECONDS)


def _serve(config: LoadConfig, commands: Iterator[Command], outbox: Outbox) -> int:
    inbox = Inbox()
    desk = Desk(inbox, outbox, most_waiting=config.max_queued)
    start_reading(commands, inbox, desk.accept)
    beating = start_beating(outbox, _loading_beat)
    backend = open_backend(config, _progress_to(outbox))
    loop = build_loop(backend, config, inbox, outbox)
    desk.open(build_intake(backend, config))
    beating.set()
    beating = start_beating(outbox, loop.beat)
    trimming = start_trimming()
    outbox.send(Ready(backend.info))
    logger.info("model loaded", extra={"policy": backend.info.memory_policy.value})
    try:
        return loop.run()
    finally:
        trimming.set()
        beating.set()
        desk.close()
        backend.close()


def _behave_as_child() -> None:
    """End with the front, never before it on a Ctrl-C that is meant for the whole group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Without it a failed assertion in ggml starts a debugger first, which takes seconds.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _progress_to(outbox: Outbox) -> Callable[[float], None]:
    """Reports at most a hundred steps of progress."""
    last = -1

    def report(fraction: float) -> None:
        nonlocal last
        percent = int(fraction * 100)
        if percent != last:
            last = percent
            outbox.send(Progress(fraction))

    return report


def _loading_beat() -> Heartbeat:
    return Heartbeat(
        busy_seconds=0.0,
        running=0,
        queued=0,
        cells_used=0,
        resident_bytes=psutil.Process().memory_info().rss,
        counters=Counters(),
    )


if __name__ == "__main__":
    sys.exit(main())
