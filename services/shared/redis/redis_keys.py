"""The keys of Redis: what each holds, which service owns it, and how long it lives.

| key | type | owner | lifetime |
|-|-|-|-|
| spindll:api_keys | hash: sha256 of key -> JSON of access/keys.py ApiKey | api | until revoked |
| spindll:api_keys_used | hash: id of a key -> unix time of its last use | api | until revoked |
| spindll:pull:{job} | hash: the job, see pulls/job.py | puller, api | 30 days after its end |
| spindll:pulls | sorted set: job id by creation time | api | an entry goes with its job |
| spindll:pulls_active | set: ids of jobs that have not ended | api, puller | until the job ends |
| spindll:pull_of:{dedup_key} | string: id of its job | api | until the job ends |
| spindll:pull_lease:{job} | string: the worker that runs a job | puller | 20 s, renewed |
| spindll:pull_key:{hash} | string: id of the job that an Idempotency-Key created | api | 24 h |
| spindll:pulls_ended | list: ids of jobs that have ended, for the webhook; the last 1000 | puller | a day |
| spindll:pull_bytes:{second} | integer: bytes taken from the budget of a second | puller | 5 s |
| spindll:pulls_on_demand:{principal} | integer: downloads its requests started this hour | api | an hour |
| spindll:searches | pub/sub channel for queries of search.py, updates.py; not a key | api | none |
| spindll:search_claim:{query} | string: a puller answers this query | puller | 60 s |
| spindll:search_answer:{query} | list of one: the answer to a query | puller | 60 s or until read |
| spindll:cache_report:{request} | hash: id of an API key -> the report of its request | api | an hour |
| spindll:cache_reports:{principal} | list: ids of the last requests of an API key | api | an hour |
| spindll:cache_asked:{principal} | hash: model -> keyed hashes of the last prompt of an API key | api | an hour |
| spindll:kv:{name} | the index of stored prompts, see engine/front/cache_index/index.py | engine | 90 days after the last entry |

RQ's own keys start with `rq:`. Which service may touch which keys is in redis_users.py.
"""

from __future__ import annotations

PREFIX = "spindll:"

API_KEYS = PREFIX + "api_keys"
API_KEYS_USED = PREFIX + "api_keys_used"
PULLS = PREFIX + "pulls"
PULLS_ACTIVE = PREFIX + "pulls_active"
PULLS_ENDED = PREFIX + "pulls_ended"
SEARCHES = PREFIX + "searches"

JOB_LIFETIME_SECONDS = 30 * 24 * 3600
PULL_LEASE_SECONDS = 20
PULL_KEY_SECONDS = 24 * 3600
PULL_BYTES_SECONDS = 5
PULLS_ENDED_SECONDS = 24 * 3600
PULLS_ON_DEMAND_SECONDS = 3600
SEARCH_KEY_SECONDS = 60
CACHE_REPORT_SECONDS = 3600


def pull(job_id: str) -> str:
    """The hash of one job."""
    return f"{PREFIX}pull:{job_id}"


def pull_in_flight(dedup_key: str) -> str:
    """The id of the job in flight that fetches what `pulls.job.dedup_key` names."""
    return f"{PREFIX}pull_of:{dedup_key}"


def pull_lease(job_id: str) -> str:
    """The lease of the worker that runs this job."""
    return f"{PREFIX}pull_lease:{job_id}"


def pull_key(key_hash: str) -> str:
    """The id of the job that an Idempotency-Key created; the hash covers its principal too."""
    return f"{PREFIX}pull_key:{key_hash}"


def pull_bytes(second: int) -> str:
    """The bytes that all workers together have taken from the bandwidth of one second."""
    return f"{PREFIX}pull_bytes:{second}"


def pulls_on_demand(principal: str) -> str:
    """How many downloads the requests of this principal have started in an hour."""
    return f"{PREFIX}pulls_on_demand:{principal}"


def search_claim(query_id: str) -> str:
    """The claim of the puller that answers this query."""
    return f"{PREFIX}search_claim:{query_id}"


def search_answer(query_id: str) -> str:
    """The list that receives the answer to this query."""
    return f"{PREFIX}search_answer:{query_id}"


def cache_report(request_id: str) -> str:
    """The reports about the requests that have this id, one for each API key."""
    return f"{PREFIX}cache_report:{request_id}"


def cache_reports(principal: str) -> str:
    """The requests of this API key that have reports, the newest last."""
    return f"{PREFIX}cache_reports:{principal}"


def cache_asked(principal: str) -> str:
    """What the next requests of this API key are compared with, by model."""
    return f"{PREFIX}cache_asked:{principal}"


def kv(name: str) -> str:
    """A part of the index of a prompt cache."""
    return f"{PREFIX}kv:{name}"
