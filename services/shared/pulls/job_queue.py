"""The RQ queue that carries pull jobs to workers, the highest priority first.

A ticket is an entry of that queue: an RQ job that calls `pull_model(job id, ticket number)`. Its RQ
id is `ticket_id(job id, ticket number)`. The number counts how often the job was queued, and a
worker starts the job only if the number is the job's current one. A ticket that is lost or sent
twice therefore does no harm: an old one starts nothing, and the puller's maintenance sends a new
one for a queued job that has none.
"""

from __future__ import annotations

from typing import cast

import redis
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from services.shared.pulls import lua
from services.shared.pulls.job import PULL_MODEL, QUEUE, PullJob, parse_ticket_id, ticket_id
from services.shared.redis import redis_keys

KEEP_TICKET_SECONDS = 600


class JobQueue:
    """The queue of tickets. Its calls block; it is thread-safe."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        # JSON, not pickle: whoever can write to Redis must not be able to run code here. The workers
        # do not call the function that a ticket names either, see services/puller/worker.py.
        self.queue = Queue(QUEUE, connection=client, serializer=JSONSerializer)
        self._reorder = client.register_script(lua.REORDER)

    def send(self, job: PullJob) -> None:
        """Queue the job's current ticket, before those of lower priority."""
        self.queue.enqueue_call(
            PULL_MODEL,
            args=(job.id, job.ticket),
            job_id=ticket_id(job.id, job.ticket),
            timeout=-1,  # a download may take any time; a lease that expires reveals a dead worker
            result_ttl=0,
            failure_ttl=KEEP_TICKET_SECONDS,
            description=f"pull {job.model}",
        )
        self.reorder(job)

    def reorder(self, job: PullJob) -> None:
        """Move a job's waiting ticket to the place that its priority gives it."""
        self._reorder(
            keys=[self.queue.key],
            args=[ticket_id(job.id, job.ticket), job.priority, redis_keys.pull("")],
        )

    def count_waiting(self) -> int:
        """How many tickets wait for a worker."""
        return self._redis.llen(self.queue.key)

    def count_workers(self) -> int:
        """How many workers take tickets, or died without leaving."""
        return int(Worker.count(queue=self.queue))

    def list_waiting(self) -> frozenset[str]:
        """The ids of the pull jobs that have a ticket in the queue."""
        tickets = cast("list[bytes]", self._redis.lrange(self.queue.key, 0, -1))
        return frozenset(parse_ticket_id(ticket.decode()) for ticket in tickets)
