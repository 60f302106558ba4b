"""Tickets in RQ's queue: how a queued pull job reaches a worker, best priority first.

A ticket is an RQ job that calls `pull_model(job id, ticket number)`. Losing one or sending one twice
does no harm: the job's own state decides, and the sweep sends a new one where none is under way.
"""

from __future__ import annotations

from typing import cast

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from services.shared import redis_keys
from services.shared.pulls import lua
from services.shared.pulls.job import PULL_MODEL, QUEUE, PullJob, parse_ticket_id, ticket_id

KEEP_TICKET_SECONDS = 600


class JobQueue:
    """The queue of tickets. Blocking and thread-safe."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        # JSON, not pickle: who can write to Redis must not be able to run code in a worker.
        self.queue = Queue(QUEUE, connection=client, serializer=JSONSerializer)
        self._arrange = client.register_script(lua.ARRANGE)

    def send(self, job: PullJob) -> None:
        """Queue the job's present ticket, before those of lower priority."""
        self.queue.enqueue_call(
            PULL_MODEL,
            args=(job.id, job.ticket),
            job_id=ticket_id(job.id, job.ticket),
            timeout=-1,  # a download takes as long as it takes; the lease finds dead workers
            result_ttl=0,
            failure_ttl=KEEP_TICKET_SECONDS,
            description=f"pull {job.model}",
        )
        self.arrange(job)

    def arrange(self, job: PullJob) -> None:
        """Move a waiting ticket to where its job's priority belongs."""
        self._arrange(
            keys=[self.queue.key],
            args=[ticket_id(job.id, job.ticket), job.priority, redis_keys.pull("")],
        )

    def waiting(self) -> frozenset[str]:
        """Ids of the pull jobs that have a ticket in the queue."""
        tickets = cast("list[bytes]", self._redis.lrange(self.queue.key, 0, -1))
        return frozenset(parse_ticket_id(ticket.decode()) for ticket in tickets)
