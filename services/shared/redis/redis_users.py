"""The users of Redis: one per service, which reaches only the keys and channels of its work.

`python -m services.shared.redis.redis_users FOLDER` makes, or keeps, what each process needs to see:

    FOLDER/<service>/password     of the service's own user
    FOLDER/redis/users.acl        for Redis: every user, with the hash of its password
    FOLDER/redis/password         of the user `health`, which may only ping

A process that is taken over can then do in Redis what its own work needs, and nothing else: the
engine, which reads files of strangers, can neither add an API key nor queue a download. The default
user is off. Source of the syntax: https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.shared.redis import redis_keys
from services.shared.secret_files import replace_secret

HEALTH_USER = "health"
REDIS_FOLDER = "redis"
ACL_FILE = "users.acl"
PASSWORD_FILE = "password"  # noqa: S105  the name of the file
_PASSWORD_BYTES = 32
_ANY = "*"

# No command that administers the server, sees other clients, or lists keys by name.
_COMMANDS = (
    "-@all +@read +@write +@transaction +@pubsub +@connection"
    " -@admin -@dangerous -@scripting -scan -randomkey"
    " +eval +evalsha +script|load +script|exists"
    # For RQ: the version of the server, and the address of the own connection.
    " +info +client|setname +client|info +client|id"
)

_PULL_KEYS = (
    redis_keys.PULLS,
    redis_keys.PULLS_ACTIVE,
    redis_keys.PULLS_ENDED,
    redis_keys.pull(_ANY),
    redis_keys.pull_in_flight(_ANY),
    redis_keys.pull_lease(_ANY),
    redis_keys.pull_key(_ANY),
)


@dataclass(frozen=True, slots=True)
class RedisUser:
    """What one user may do: with which keys and channels (patterns), by which commands."""

    keys: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    commands: str = _COMMANDS


USERS: Mapping[str, RedisUser] = {
    "api": RedisUser(
        keys=(
            redis_keys.API_KEYS,
            redis_keys.API_KEYS_USED,
            *_PULL_KEYS,
            redis_keys.pulls_on_demand(_ANY),
            redis_keys.search_answer(_ANY),
            redis_keys.cache_report(_ANY),
            redis_keys.cache_reports(_ANY),
            redis_keys.cache_asked(_ANY),
            # Of RQ, what queueing a ticket needs.
            "rq:queues",
            "rq:queue:*",
            "rq:job:*",
        ),
        channels=(redis_keys.SEARCHES,),
    ),
    "puller": RedisUser(
        keys=(
            *_PULL_KEYS,
            redis_keys.PREFIX + "pull_bytes:*",
            redis_keys.search_claim(_ANY),
            redis_keys.search_answer(_ANY),
            "rq:*",
        ),
        channels=(redis_keys.SEARCHES, "rq:*"),
    ),
    "engine": RedisUser(keys=(redis_keys.kv(_ANY),)),
    HEALTH_USER: RedisUser(commands="-@all +ping"),
}


def write_users(folder: Path) -> None:
    """Make the passwords that are missing, and write the users of this version for Redis."""
    passwords = {name: _ensure_password(_password_file(folder, name)) for name in USERS}
    _replace(
        folder / REDIS_FOLDER / ACL_FILE, "".join(f"{line}\n" for line in acl_lines(passwords))
    )


def acl_lines(passwords: Mapping[str, str]) -> Iterable[str]:
    """The lines of an ACL file; it holds only hashes of the passwords."""
    # No client can log in as this user, but Redis itself is while it reads its append-only file: Redis 7.0
    # leaves out the transactions in it that this user may not do.
    yield "user default reset ~* &* +@all"
    for name, user in USERS.items():
        digest = hashlib.sha256(passwords[name].encode()).hexdigest()
        rules = [
            "reset",
            "resetchannels",  # Redis 6 allows all channels by default
            "on",
            f"#{digest}",
            *(f"~{key}" for key in user.keys),
            *(f"&{channel}" for channel in user.channels),
            user.commands,
        ]
        yield f"user {name} {' '.join(rules)}"


def _password_file(folder: Path, name: str) -> Path:
    return folder / (REDIS_FOLDER if name == HEALTH_USER else name) / PASSWORD_FILE


def _ensure_password(path: Path) -> str:
    try:
        if password := path.read_text().strip():
            return password
    except FileNotFoundError:
        pass
    password = secrets.token_hex(_PASSWORD_BYTES)
    _replace(path, password)
    return password


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    replace_secret(path, text.encode(), mode=0o640)  # the group too: Redis runs as another user


if __name__ == "__main__":
    write_users(Path(sys.argv[1]))
