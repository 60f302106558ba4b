"""Reports wrong API keys in the log, by the address that sent them, without flooding the log.

Every report is one line with the client's address, for people and for tools such as fail2ban. An
address whose keys go on failing is reported once per interval, with the number of failures.
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
class _Failures:
    """The failures of one address that were not reported yet, and the next time for a report."""

    reported: int = 0
    waiting: int = 0
    next_report_at: float = 0.0
    last_at: float = 0.0


class FailedKeys:
    """Counts the failures of each address. A failure never blocks a valid key of its address."""

    def __init__(self) -> None:
        self._by_address: OrderedDict[str, _Failures] = OrderedDict()

    def report(self, client: str) -> None:
        """Record that a client sent a wrong key, and log it unless that was done just now."""
        count = self.count_to_report(client, time.monotonic())
        if count:
            logger.warning("API key refused", extra={"client": client, "failures": count})

    def count_to_report(self, client: str, now: float) -> int:
        """The failures of this address to report now, the new one included; 0: none yet.

        The first failures are reported one by one, later ones together once per interval. After an
        interval without a failure the address starts over.
        """
        address = find_network(client)
        failures = self._by_address.pop(address, None)
        if failures is None or now - failures.last_at > INTERVAL_SECONDS:
            failures = _Failures()
        self._by_address[address] = failures
        if len(self._by_address) > MAX_ADDRESSES:
            self._by_address.popitem(last=False)
        failures.last_at = now
        failures.waiting += 1
        if failures.reported >= BURST and now < failures.next_report_at:
            return 0
        count, failures.waiting = failures.waiting, 0
        failures.reported += 1
        failures.next_report_at = now + INTERVAL_SECONDS
        return count
