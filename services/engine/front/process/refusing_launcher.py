"""Starts no runner, where none may compute: SPINDLL_REQUIRE_GPU without a usable GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from services.engine.core import LoadConfig
from services.engine.messages import reports
from services.shared.errors import ModelLoadFailed


class RefusingLauncher:
    """A RunnerLauncher (launcher.py) that refuses every load with one reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
    ) -> NoReturn:
        """See RunnerLauncher."""
        raise ModelLoadFailed(self._reason)

    async def estimate(self, config: LoadConfig) -> NoReturn:
        """See RunnerLauncher."""
        raise ModelLoadFailed(self._reason)
