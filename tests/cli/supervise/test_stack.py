"""The commands and environments of the services."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.api.settings import ApiSettings
from services.cli.options import StackOptions
from services.cli.paths import StackPaths
from services.cli.supervise.service_variables import SETTINGS
from services.cli.supervise.stack import STACK_VARIABLE, build_services, find_tiny_model
from services.engine.settings import EngineSettings
from services.puller.settings import PullerSettings
from services.shared import mlx_support
from services.shared.settings import SharedSettings

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


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"llama_cpp"}, "tiny-f16.gguf"),
        ({"llama_cpp", "mlx_lm"}, "tiny-f16.gguf"),
        ({"mlx_lm"}, "mlx-f16"),
        (set(), "tiny-f16.gguf"),
    ],
    ids=["llama", "both", "mlx", "none"],
)
def test_the_tiny_model_has_the_format_that_can_be_loaded(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], expected: str
) -> None:
    monkeypatch.setattr(mlx_support, "find_spec", lambda name: name if name in installed else None)

    assert find_tiny_model().name == expected
    assert find_tiny_model().exists()


def test_the_environment_of_a_service() -> None:
    options = make_options(host="0.0.0.0", port=1, grpc_port=2, workers=3)
    inherited = {"SPINDLL_MAX_BODY_BYTES": "4096"}
    environment = build_services(options, StackPaths(options.data_dir), inherited)[-1].environment
    settings = {name: environment[name] for name in environment if name.startswith("SPINDLL_")}

    assert settings == {
        STACK_VARIABLE: "/srv/data",
        "SPINDLL_API_HOST": "0.0.0.0",
        "SPINDLL_API_PORT": "1",
        "SPINDLL_API_WORKERS": "3",
        "SPINDLL_DATA_DIR": "/srv/data",
        "SPINDLL_DRAIN_SECONDS": "10",
        "SPINDLL_ENGINE_ADDRESS": "unix:/srv/data/run/engine.sock",
        "SPINDLL_GRPC_PORT": "2",
        "SPINDLL_MAX_BODY_BYTES": "4096",
        "SPINDLL_REDIS_PASSWORD_FILE": "/srv/data/redis-users/api/password",
        "SPINDLL_REDIS_URL": "unix://api@/srv/data/run/redis.sock?db=0",
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


def find_owners(inherited: dict[str, str]) -> set[tuple[str, str]]:
    """The services with the variables that each has got."""
    options = make_options()
    return {
        (service.name, name)
        for service in build_services(options, StackPaths(options.data_dir), inherited)
        for name in service.environment
        if name in inherited
    }


def test_a_service_gets_its_own_settings_only() -> None:
    inherited = {
        "SPINDLL_HF_TOKEN": "hf_x",
        "SPINDLL_PULL_WEBHOOK_URL": "https://hooks.example/secret",
        "SPINDLL_API_KEY": "sk-x",
        "SPINDLL_URL": "https://elsewhere.example",
        "SPINDLL_NO_SUCH_SETTING": "x",
        "SPINDLL_THREADS": "4",
        "SPINDLL_CORS_ORIGINS": "*",
        "SPINDLL_LOG_LEVEL": "DEBUG",
    }

    assert find_owners(inherited) == {
        ("puller", "SPINDLL_HF_TOKEN"),
        ("puller", "SPINDLL_PULL_WEBHOOK_URL"),
        ("engine", "SPINDLL_THREADS"),
        ("api", "SPINDLL_CORS_ORIGINS"),
        *((service, "SPINDLL_LOG_LEVEL") for service in ("engine", "puller", "api")),
    }


def test_a_proxy_and_the_tokens_of_the_hub_reach_the_puller_only() -> None:
    secrets = {"https_proxy": "http://user:password@proxy", "ALL_PROXY": "x", "HF_TOKEN": "hf_x"}

    assert find_owners(secrets) == {("puller", name) for name in secrets}


def test_variables_of_other_programs_reach_every_service() -> None:
    inherited = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "SSL_CERT_FILE": "/ca.pem"}

    assert find_owners(inherited) == {
        (service, name) for service in ("redis", "engine", "puller", "api") for name in inherited
    }


@pytest.mark.parametrize(
    ("service", "settings"),
    [("api", ApiSettings), ("engine", EngineSettings), ("puller", PullerSettings)],
)
def test_the_table_has_the_settings_of_the_service(
    service: str, settings: type[SharedSettings]
) -> None:
    assert SETTINGS[service] == {f"SPINDLL_{name.upper()}" for name in settings.model_fields}
