"""`python -m services.puller.health`: exit status 0 while this host's puller is alive."""

from __future__ import annotations

import socket

import redis

from services.puller.settings import PullerSettings
from services.shared import redis_keys
from services.shared.redis_client import connect
from services.shared.settings import read_settings


def main() -> None:
    """Exit with status 0 if the key that the worker pool renews is in Redis, else with 1."""
    settings = read_settings(PullerSettings)
    client = connect(settings.redis_url, settings.redis_password_file)
    try:
        is_alive = bool(client.exists(redis_keys.puller(socket.gethostname())))
    except redis.RedisError:
        is_alive = False
    raise SystemExit(0 if is_alive else 1)


if __name__ == "__main__":
    main()
