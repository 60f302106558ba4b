"""Every key we keep in Redis, who owns it, and how long it lives.

| key | type | owner | lifetime |
|-|-|-|-|
| spindll:api_keys | hash: sha256 of key -> JSON {id, role, name, created_at} | api | until deleted |
| spindll:pull:{job} | hash: the job's state, see pull_jobs.py | puller, api | 30 days after it ended |
| spindll:pulls | sorted set: job id by time asked | api | entries go with their job |
| spindll:pull_of:{model} | string: id of the job in flight for a model | api | until the job ends |
| spindll:blob_lock:{digest} | string: worker that downloads a blob | puller | 60 s, renewed |

RQ's own keys start with `rq:`.
"""

from __future__ import annotations

PREFIX = "spindll:"

API_KEYS = PREFIX + "api_keys"
PULLS = PREFIX + "pulls"

JOB_LIFETIME_SECONDS = 30 * 24 * 3600
BLOB_LOCK_SECONDS = 60


def pull(job_id: str) -> str:
    """One job's state."""
    return f"{PREFIX}pull:{job_id}"


def pull_of(model: str) -> str:
    """The job in flight for a canonical model name."""
    return f"{PREFIX}pull_of:{model}"


def blob_lock(digest: str) -> str:
    """Held by the worker that downloads this blob."""
    return f"{PREFIX}blob_lock:{digest}"
