"""Every key we keep in Redis, who owns it, and how long it lives.

| key | type | owner | lifetime |
|-|-|-|-|
| spindll:api_keys | hash: sha256 of key -> JSON {id, role, name, created_at} | api | until deleted |
| spindll:pull:{job} | hash: the job's state, see pulls/job.py | puller, api | 30 days after it ended |
| spindll:pulls | sorted set: job id by time asked | api | entries go with their job |
| spindll:pulls_active | set: ids of the jobs that have not ended | api, puller | until the job ends |
| spindll:pull_for_order:{order} | string: id of the job in flight for an order | api | until the job ends |
| spindll:pull_lease:{job} | string: the worker that runs a job | puller | 20 s, renewed |
| spindll:pull_key:{hash} | string: id of the job an Idempotency-Key made | api | 24 h |
| spindll:pull_bytes:{second} | integer: bytes taken from a second's budget | puller | 5 s |
| spindll:puller:{host} | string: the puller of this host is alive | puller | 30 s, renewed |
| spindll:searches | channel: queries of search.py, no key of its own | api | none |
| spindll:search_claim:{question} | string: a puller answers this question | puller | 60 s |
| spindll:search_answer:{question} | list of one: its answer | puller | until read, or 60 s |

RQ's own keys start with `rq:`.
"""

from __future__ import annotations

PREFIX = "spindll:"

API_KEYS = PREFIX + "api_keys"
PULLS = PREFIX + "pulls"
PULLS_ACTIVE = PREFIX + "pulls_active"
SEARCHES = PREFIX + "searches"

JOB_LIFETIME_SECONDS = 30 * 24 * 3600
PULL_LEASE_SECONDS = 20
PULL_KEY_SECONDS = 24 * 3600
PULL_BYTES_SECONDS = 5
PULLER_ALIVE_SECONDS = 30
SEARCH_KEY_SECONDS = 60


def pull(job_id: str) -> str:
    """One job's state."""
    return f"{PREFIX}pull:{job_id}"


def pull_for_order(order: str) -> str:
    """The job in flight for an order: a canonical model name, or `name#format`."""
    return f"{PREFIX}pull_for_order:{order}"


def pull_lease(job_id: str) -> str:
    """Held by the worker that runs this job."""
    return f"{PREFIX}pull_lease:{job_id}"


def pull_key(key_hash: str) -> str:
    """The job that a principal's Idempotency-Key made; sha256 of both, hex."""
    return f"{PREFIX}pull_key:{key_hash}"


def pull_bytes(second: int) -> str:
    """What all workers together have taken from one second's bandwidth."""
    return f"{PREFIX}pull_bytes:{second}"


def puller(host: str) -> str:
    """Set while the puller of this host is alive."""
    return f"{PREFIX}puller:{host}"


def search_claim(question_id: str) -> str:
    """Held by the puller that answers this question."""
    return f"{PREFIX}search_claim:{question_id}"


def search_answer(question_id: str) -> str:
    """Where the answer to this question is left."""
    return f"{PREFIX}search_answer:{question_id}"
