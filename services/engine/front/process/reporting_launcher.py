"""Takes the reports about stored prompts off a runner's reports, for the front's prompt cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.engine.core import CacheEvent, LoadConfig, ModelInfo
from services.engine.front.process.launcher import RunnerHandle, RunnerLauncher
from services.engine.messages import reports


class ReportingLauncher:
    """A RunnerLauncher (launcher.py) around another one."""

    def __init__(
        self, launcher: RunnerLauncher, on_cache_events: Callable[[Sequence[CacheEvent]], None]
    ) -> None:
        self._launcher = launcher
        self._on_cache_events = on_cache_events

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
    ) -> RunnerHandle:
        """See RunnerLauncher."""

        def take(report: reports.Report) -> None:
            if isinstance(report, reports.CacheReport):
                self._on_cache_events(report.events)
            else:
                on_report(report)

        return await self._launcher.start(config, take, on_exit)

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        """See RunnerLauncher."""
        return await self._launcher.estimate(config)
