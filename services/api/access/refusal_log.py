"""Reports in the log what strangers were refused, by their address, without flooding the log.

Every report is one line with the client's address, for people and for tools such as fail2ban. An
address that goes on is reported once per interval, with the number of refusals: no caller without a
key can push other lines out of a log of limited size.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass

from services.api.access.client_address import find_network

logger = logging.getLogger(__name__)

BURST = 10
INTERVAL_SECONDS = 10.0
MAX_ADDRESSES = 4096


@dataclass(slots=True)
class _Refusals:
    """The refusals of one address that were not reported yet, and the next time for a report."""

    reported: int = 0
    waiting: int = 0
    next_report_at: float = 0.0
    last_at: float = 0.0


class RefusalLog:
    """Counts one kind of refusal by address. It blocks no caller: a home sits behind one address."""

    def __init__(self, event: str, *, level: int = logging.WARNING) -> None:
        self._event = event
        self._level = level
        self._by_address: OrderedDict[str, _Refusals] = OrderedDict()

    def report(self, client: str) -> None:
        """Record that a client was refused, and log it unless that was done just now."""
        count = self.count_to_report(client, time.monotonic())
        if count:
            logger.log(self._level, self._event, extra={"client": client, "count": count})

    def count_to_report(self, client: str, now: float) -> int:
        """The refusals of this address to report now, the new one included; 0: none yet.

        The first are reported one by one, later ones together once per interval. After an interval
        without any, the address starts over.
        """
        address = find_network(client)
        refusals = self._by_address.pop(address, None)
        if refusals is None or now - refusals.last_at > INTERVAL_SECONDS:
            refusals = _Refusals()
        self._by_address[address] = refusals
        if len(self._by_address) > MAX_ADDRESSES:
            self._by_address.popitem(last=False)
        refusals.last_at = now
        refusals.waiting += 1
        if refusals.reported >= BURST and now < refusals.next_report_at:
            return 0
        count, refusals.waiting = refusals.waiting, 0
        refusals.reported += 1
        refusals.next_report_at = now + INTERVAL_SECONDS
        return count
