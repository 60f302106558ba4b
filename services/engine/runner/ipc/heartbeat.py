"""Report to the front that this process is alive, and how long its backend has been busy."""

from __future__ import annotations

import threading
from collections.abc import Callable

from services.engine.messages.reports import HEARTBEAT_SECONDS, Heartbeat
from services.engine.runner.ipc.report_writer import ReportWriter
from services.shared.periodic import start_periodic


def start_heartbeat(
    report_writer: ReportWriter, build_heartbeat: Callable[[], Heartbeat]
) -> threading.Event:
    """Send a heartbeat now and every HEARTBEAT_SECONDS, on a thread, until the event is set."""
    return start_periodic(
        lambda: report_writer.send(build_heartbeat()), HEARTBEAT_SECONDS, name="heartbeat"
    )
