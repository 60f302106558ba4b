"""A runner process: `python -m services.engine.runner --fd N [--estimate]`.

The front starts the process with one end of a socket pair as descriptor N, and writes `Start`
first. Exit status: 0 after a Stop or when the front has gone; 1 after a failed load, or after
several failed steps in a row.
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

from services.engine.backends import estimate
from services.engine.core import Counters, LoadConfig
from services.engine.messages.commands import Command, Start
from services.engine.messages.reports import Heartbeat, LoadFailed, Progress, Ready
from services.engine.runner.build import build_input_processor, open_batcher
from services.engine.runner.embedding.embedding_processor import EmbeddingProcessor
from services.engine.runner.ipc.cache_reporter import CacheReporter
from services.engine.runner.ipc.command_queue import CommandQueue, read_commands, start_reading
from services.engine.runner.ipc.dispatcher import Dispatcher
from services.engine.runner.ipc.heartbeat import start_heartbeat
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.loop import EngineLoop
from services.shared.core_dumps import forbid_core_dumps
from services.shared.errors import ModelLoadFailed
from services.shared.logs import set_up_logs
from services.shared.malloc_trim import start_trimming
from services.shared.settings import SharedSettings, read_settings

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 5.0  # to write the last frames, when the pipe is slow
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Load the model that `Start` names, and answer requests until Stop or the end of the front."""
    parser = argparse.ArgumentParser(prog="services.engine.runner")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the front")
    parser.add_argument(
        "--estimate", action="store_true", help="report the memory that a load would take, and exit"
    )
    options = parser.parse_args()
    settings = read_settings(SharedSettings)
    set_up_logs("runner", level=settings.log_level, fmt=settings.log_format)
    _set_up_child_process()
    with socket.socket(fileno=options.fd) as connection:
        commands = read_commands(connection)
        start = next(commands, None)
        if not isinstance(start, Start):
            return 0 if start is None else 1
        report_writer = ReportWriter(connection)
        try:
            if options.estimate:
                report_writer.send(Ready(estimate(start.config)))
                return 0
            return _serve(start.config, commands, report_writer)
        except ModelLoadFailed as error:
            report_writer.send(LoadFailed(error.code, error.message))
            return 1
        finally:
            report_writer.close(_FLUSH_SECONDS)


def _serve(config: LoadConfig, commands: Iterator[Command], report_writer: ReportWriter) -> int:
    command_queue = CommandQueue()
    dispatcher = Dispatcher(command_queue, report_writer, max_queued=config.max_queued)
    start_reading(commands, command_queue, dispatcher.dispatch)
    heartbeat_stopped = start_heartbeat(report_writer, _build_loading_heartbeat)
    batcher = open_batcher(config, _build_progress_callback(report_writer))
    loop = EngineLoop(batcher, command_queue, report_writer, max_queued=config.max_queued)
    dispatcher.open(
        build_input_processor(batcher), EmbeddingProcessor(batcher.vocabulary, batcher.pooled)
    )
    heartbeat_stopped.set()
    heartbeat_stopped = start_heartbeat(report_writer, loop.build_heartbeat)
    trimming_stopped = start_trimming()
    cache_reporter = CacheReporter(report_writer, batcher.store) if batcher.store else None
    report_writer.send(Ready(batcher.info))
    logger.info("model loaded", extra={"policy": batcher.info.memory_policy.value})
    try:
        return loop.run()
    finally:
        trimming_stopped.set()
        heartbeat_stopped.set()
        dispatcher.close()
        if cache_reporter is not None:
            cache_reporter.close()
        batcher.close()


def _set_up_child_process() -> None:
    """End when the front ends; ignore a Ctrl-C, which the terminal sends to the whole group.

    And leave no core dump: it would have prompts and keys in it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forbid_core_dumps()
    # Otherwise a failed assertion in ggml first starts a debugger, which takes seconds.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _build_progress_callback(report_writer: ReportWriter) -> Callable[[float], None]:
    """Build the callback that reports load progress, at most once per percent."""
    last = -1

    def report(fraction: float) -> None:
        nonlocal last
        percent = int(fraction * 100)
        if percent != last:
            last = percent
            report_writer.send(Progress(fraction))

    return report


def _build_loading_heartbeat() -> Heartbeat:
    return Heartbeat(
        busy_seconds=0.0,
        running=0,
        queued=0,
        cells_used=0,
        counters=Counters(),
    )


if __name__ == "__main__":
    sys.exit(main())
