"""`python -m services.puller`: the supervisor and its workers, until SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import signal
import sys

from services.puller.build import build_runner, build_search
from services.puller.first_start import FirstStart
from services.puller.maintenance import Sweep
from services.puller.search.listener import SearchDesk
from services.puller.search.search import bound_hub_waits
from services.puller.settings import PullerSettings, listed
from services.puller.worker_pool import Supervisor
from services.shared.errors import InvalidSettings
from services.shared.logs import set_up_logs
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from services.shared.redis_client import connect
from services.shared.settings import read_settings
from services.shared.store.model_store import ModelStore

logger = logging.getLogger(__name__)


def main() -> None:
    """Exit status 2 when a setting is not usable."""
    settings = read_settings(PullerSettings)
    set_up_logs("puller", level=settings.log_level, fmt=settings.log_format)
    supervisor = build_supervisor(settings)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: supervisor.stop())
    logger.info("puller started", extra={"workers": settings.pull_workers})
    desk = build_desk(settings)
    desk.start()
    supervisor.run()
    desk.stop()
    logger.info("puller stopped")


def build_supervisor(settings: PullerSettings) -> Supervisor:
    """The main process's parts; fails by name on settings that a worker could not use."""
    client = connect(settings.redis_url, settings.redis_password_file)
    try:
        build_runner(settings, client)
    except InvalidSettings as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error
    store, board, tickets = ModelStore(settings.models_dir), JobStore(client), JobQueue(client)
    first_start = FirstStart(store, JobCommands(client, board), tickets)

    def bring() -> None:
        first_start.import_tiny(settings.tiny_model)
        first_start.queue(listed(settings.models))

    sweep = Sweep(board, tickets, store, max_attempts=settings.pull_attempts)
    return Supervisor(client, sweep, workers=settings.pull_workers, first_start=bring)


def build_desk(settings: PullerSettings) -> SearchDesk:
    """Who answers searches, in this process."""
    bound_hub_waits()
    client = connect(settings.redis_url, settings.redis_password_file)
    return SearchDesk(client, build_search(settings))


if __name__ == "__main__":
    main()
