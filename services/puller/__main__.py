"""`python -m services.puller`: run the worker pool and the search listener until a signal."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from pathlib import Path

from services.puller.build import (
    build_job_runner,
    build_search,
    build_update_check,
    build_webhook_sender,
)
from services.puller.first_start import FirstStart
from services.puller.maintenance import Maintenance
from services.puller.search.listener import SearchListener
from services.puller.search.search import set_hub_timeout
from services.puller.settings import PullerSettings, split_list
from services.puller.transport.http_client import tls_context
from services.puller.webhook import WebhookSender
from services.puller.worker_pool import WorkerPool
from services.shared.errors import InvalidModelFile, InvalidSettings
from services.shared.logs import set_up_logs
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from services.shared.redis.redis_client import connect
from services.shared.settings import read_settings
from services.shared.store.model_store import ModelStore

logger = logging.getLogger(__name__)


def main() -> None:
    """Run the puller; the exit status is 2 when a setting is not usable."""
    settings = read_settings(PullerSettings)
    set_up_logs("puller", level=settings.log_level, fmt=settings.log_format)
    require_certificates()
    worker_pool = build_worker_pool(settings)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: worker_pool.stop())
    logger.info("puller started", extra={"workers": settings.pull_workers})
    listener = build_search_listener(settings)
    sender = build_webhook(settings)
    listener.start()
    if sender is not None:
        sender.start()
    worker_pool.run()
    if sender is not None:
        sender.stop()
    listener.stop()
    logger.info("puller stopped")


def require_certificates() -> None:
    """Exit with status 2 when the file that SSL_CERT_FILE names is no list of authorities."""
    try:
        tls_context()
    except OSError as error:
        print(  # noqa: T201
            f"SSL_CERT_FILE: the certificates cannot be read ({error.strerror}); with containers"
            " the file must be below /data/credentials",
            file=sys.stderr,
        )
        raise SystemExit(2) from error


def build_worker_pool(settings: PullerSettings) -> WorkerPool:
    """Build the worker pool; exit with status 2 on settings that a worker could not use."""
    client = connect(settings.redis_url, settings.redis_password_file)
    try:
        build_job_runner(settings, client)
    except InvalidSettings as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error
    store = ModelStore(settings.models_dir)
    require_usable_store(store)
    job_store, job_queue = JobStore(client), JobQueue(client)
    first_start = FirstStart(store, JobCommands(client, job_store), job_queue)

    def provision_models() -> None:
        first_start.import_tiny(settings.tiny_model)
        first_start.queue_pulls(split_list(settings.models))

    maintenance = Maintenance(job_store, job_queue, store, max_attempts=settings.pull_attempts)
    return WorkerPool(
        maintenance,
        workers=settings.pull_workers,
        job_queue=job_queue,
        first_start=provision_models,
        heartbeat_file=settings.heartbeat_file,
    )


def build_webhook(settings: PullerSettings) -> WebhookSender | None:
    """Build the sender of the ends of jobs, if the settings have an address."""
    client = connect(settings.redis_url, settings.redis_password_file)
    return build_webhook_sender(settings, client)


def require_usable_store(store: ModelStore) -> None:
    """Exit with status 2 and one sentence when the puller may not store models.

    A full disk ends single pulls, which say so; searches and other work go on.
    """
    try:
        store.check_writable()
    except (OSError, InvalidModelFile) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            logger.warning("models folder full", extra={"reason": error.strerror})
            return
        print(describe_unusable_store(store.layout.root, error), file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error


def describe_unusable_store(root: Path, error: Exception) -> str:
    """What to do about a models folder that the puller may not write to."""
    reason = (error.strerror or "unknown error") if isinstance(error, OSError) else str(error)
    return (
        f"the models folder {root} is not writable ({reason}); it must belong to the user that runs"
        f" the puller: run `chown -R {os.geteuid()}:{os.getegid()}` on it; with containers, on the"
        " folder that MODELS names"
    )


def build_search_listener(settings: PullerSettings) -> SearchListener:
    """Build the listener that answers searches in this process."""
    set_hub_timeout()
    client = connect(settings.redis_url, settings.redis_password_file)
    return SearchListener(client, build_search(settings), build_update_check(settings))


if __name__ == "__main__":
    main()
