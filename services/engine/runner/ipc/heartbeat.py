"""Tell the front every second that the process lives, and how long its backend has been busy."""

from __future__ import annotations

import threading
from collections.abc import Callable

from services.engine.messages import HEARTBEAT_SECONDS, Heartbeat
from services.engine.runner.ipc.report_writer import Outbox
from services.shared.periodic import start_periodic


def start_beating(outbox: Outbox, beat: Callable[[], Heartbeat]) -> threading.Event:
    """Send a beat now and every BEAT_SECONDS, from a thread of its own, until the event is set."""
    return start_periodic(lambda: outbox.send(beat()), HEARTBEAT_SECONDS, name="beat")
