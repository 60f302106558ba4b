"""The commands and environments of the services."""

from __future__ import annotations

from pathlib import Path

from services.cli.options import StackOptions
from services.cli.paths import StackPaths
from services.cli.supervise.stack import STACK_VARIABLE, build_services

OWN_REDIS = {"SPINDLL_REDIS_URL": "redis://elsewhere:6379/0"}


def make_options(**changes: object) -> StackOptions:
    return StackOptions(**{"data_dir": Path("/srv/data"), **changes})  # type: ignore[arg-type]


def names(inherited: dict[str, str]) -> list[str]:
    options = make_options()
    return [s.name for s in build_services(options, StackPaths(options.data_dir), inherited)]


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
        "SPINDLL_REDIS_PASSWORD_FILE": "/srv/data/redis-users/api/password",
        "SPINDLL_REDIS_URL": "unix://api@/srv/data/run/redis.sock?db=0",
        "SPINDLL_THREADS": "4",
    }


def test_every_service_has_its_own_user_of_redis() -> None:
    options = make_options()
    services = build_services(options, StackPaths(options.data_dir), {})[1:]

    assert [
        (s.environment["SPINDLL_REDIS_URL"], s.environment["SPINDLL_REDIS_PASSWORD_FILE"])
        for s in services
    ] == [
        (
            f"unix://{name}@/srv/data/run/redis.sock?db=0",
            f"/srv/data/redis-users/{name}/password",
        )
        for name in ("engine", "puller", "api")
    ]


def test_a_secret_is_only_in_the_environment_of_its_owner() -> None:
    options = make_options()
    inherited = {"SPINDLL_HF_TOKEN": "hf_x", "SPINDLL_API_KEY": "sk-x"}
    services = build_services(options, StackPaths(options.data_dir), inherited)
    owners = {
        (service.name, name)
        for service in services
        for name, value in service.environment.items()
        if value in inherited.values()
    }

    assert owners == {("puller", "SPINDLL_HF_TOKEN")}
