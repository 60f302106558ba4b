"""The command of Redis."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise import redis_server


def test_redis_listens_on_a_socket_only_and_evicts_nothing(tmp_path: Path) -> None:
    arguments = shlex.join(redis_server.arguments(StackPaths(tmp_path)))

    assert "--port 0" in arguments
    assert f"--aclfile {tmp_path}/redis-users/redis/users.acl" in arguments
    assert "--unixsocketperm 700" in arguments
    assert "--appendonly yes" in arguments
    assert "--maxmemory-policy noeviction" in arguments


def test_the_error_for_a_missing_redis_has_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    with pytest.raises(CommandError, match="apt install redis-server"):
        redis_server.server_binary()


def test_a_redis_on_path_is_preferred_to_the_embedded_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = tmp_path / "valkey-server"
    server.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert redis_server.server_binary() == str(server)
