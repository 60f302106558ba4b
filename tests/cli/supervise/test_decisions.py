"""The parts of the supervisor without effects: commands, environments, messages and paths."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from services.cli.errors import CommandError
from services.cli.options import StackOptions, from_json, to_json
from services.cli.paths import MAX_SOCKET_PATH_BYTES, StackPaths
from services.cli.supervise import redis_server, state_file
from services.cli.supervise.checks.diagnose import explain
from services.cli.supervise.checks.probes import describe_not_ready
from services.cli.supervise.reporting import curl_line, ready_text
from services.cli.supervise.stack import STACK_VARIABLE, build_services
from services.cli.supervise.state_machine import StartFailure

OWN_REDIS = {"SPINDLL_REDIS_URL": "redis://elsewhere:6379/0"}


def make_options(**changes: object) -> StackOptions:
    return StackOptions(**{"data_dir": Path("/srv/data"), **changes})  # type: ignore[arg-type]


def names(inherited: dict[str, str]) -> list[str]:
    options = make_options()
    return [s.name for s in build_services(options, StackPaths(options.data_dir), inherited)]


def test_options_survive_encoding() -> None:
    options = make_options(host="::1", workers=3, drain_seconds=2.5)

    assert from_json(to_json(options)) == options


def test_the_services_start_in_this_order() -> None:
    assert names({}) == ["redis", "engine", "puller", "api"]


def test_with_a_redis_url_no_redis_is_started() -> None:
    options = make_options()
    services = build_services(options, StackPaths(options.data_dir), OWN_REDIS)

    assert [service.name for service in services] == ["engine", "puller", "api"]
    assert {s.environment["SPINDLL_REDIS_URL"] for s in services} == set(OWN_REDIS.values())
    assert {s.policy.needs for s in services} == {()}


def test_the_environment_of_a_service() -> None:
    options = make_options(host="0.0.0.0", port=1, grpc_port=2, workers=3)
    environment = build_services(options, StackPaths(options.data_dir), {"SPINDLL_THREADS": "4"})[
        -1
    ].environment
    settings = {name: environment[name] for name in environment if name.startswith("SPINDLL_")}
    settings.pop("SPINDLL_TINY_MODEL")

    assert settings == {
        STACK_VARIABLE: "/srv/data",
        "SPINDLL_API_HOST": "0.0.0.0",
        "SPINDLL_API_PORT": "1",
        "SPINDLL_API_WORKERS": "3",
        "SPINDLL_DATA_DIR": "/srv/data",
        "SPINDLL_DRAIN_SECONDS": "10",
        "SPINDLL_ENGINE_ADDRESS": "unix:/srv/data/run/engine.sock",
        "SPINDLL_GRPC_PORT": "2",
        "SPINDLL_REDIS_URL": "unix:///srv/data/run/redis.sock?db=0",
        "SPINDLL_THREADS": "4",
    }


def test_redis_listens_on_a_socket_only_and_evicts_nothing(tmp_path: Path) -> None:
    arguments = shlex.join(redis_server.arguments(StackPaths(tmp_path)))

    assert "--port 0" in arguments
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


def test_the_sockets_of_a_deep_folder_get_a_short_private_folder(tmp_path: Path) -> None:
    paths = StackPaths(tmp_path / ("deep" * 30))
    paths.make_dirs()

    assert len(str(paths.engine_socket)) <= MAX_SOCKET_PATH_BYTES
    assert paths.sockets_dir.stat().st_mode & 0o777 == 0o700
    paths.sockets_dir.rmdir()


def test_a_short_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    paths = StackPaths(tmp_path / ("deep" * 30))
    paths.sockets_dir.mkdir(mode=0o755)
    try:
        with pytest.raises(PermissionError):
            paths.make_dirs()
    finally:
        paths.sockets_dir.rmdir()


@pytest.mark.parametrize(
    ("failure", "lines", "expected"),
    [
        (StartFailure("redis", "ended", 1), ["# Errno 28: No space left on device"], "the redis cannot start: the disk is full"),
        (StartFailure("api", "ended", 1), ["OSError: [Errno 98] Address already in use"], "the api cannot start: another program has just taken a port"),
        (StartFailure("engine", "ended", 1), ["ModuleNotFoundError: No module named 'numpy'"], "a package is missing (numpy): run ./spindll setup"),
        (StartFailure("engine", "settings", 2), ["SPINDLL_THREADS: no", "x"], "the engine does not accept its settings: SPINDLL_THREADS: no"),
        (StartFailure("engine", "timeout"), [], "did not become ready in time"),
        (StartFailure("engine", "ended", -11), ["?"], "the engine ended during the start by signal 11"),
    ],
    ids=["disk", "port", "package", "settings", "timeout", "crash"],
)  # fmt: skip
def test_the_reason_for_a_failed_start(
    failure: StartFailure, lines: list[str], expected: str
) -> None:
    assert expected in explain(failure, lines)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"ready":false,"missing":["Redis does not answer","x"]}', "Redis does not answer; x"),
        ('{"ready":false}', "the api is not ready"),
        ("", "the api does not respond"),
    ],
    ids=["reasons", "no reason", "no response"],
)
def test_the_reasons_of_ready_are_shown(body: str, expected: str) -> None:
    assert describe_not_ready(body) == expected


def state(**changes: object) -> state_file.StackState:
    fields = {"pid": 1, "phase": "ready", "host": "0.0.0.0", "port": 8080, "grpc_port": 50051}
    return state_file.StackState(**{**fields, "started_at": 0.0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
        ("box.local", "http://box.local:8080"),
    ],
)
def test_the_address_a_client_uses(host: str, url: str) -> None:
    assert state(host=host).url == url


def test_a_quote_in_the_path_does_not_break_the_curl_command() -> None:
    line = curl_line(state(), StackPaths(Path("/srv/bob's data")))

    assert "$(cat '/srv/bob'\\''s data/secrets/user.key')" in line


def test_a_stack_that_is_not_ready_shows_the_reason_instead_of_a_curl_command() -> None:
    text = ready_text(state(not_ready_reason="no model is here yet"), StackPaths(Path("/srv/data")))

    assert text.splitlines()[-1] == "Not ready for chats yet: no model is here yet."
    assert "curl" not in text
