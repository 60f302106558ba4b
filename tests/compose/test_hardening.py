"""The restrictions and the lifecycle of every container, for both variants."""

from __future__ import annotations

import re
from typing import Any

import pytest

from services.api.settings import ApiSettings
from services.engine.settings import EngineSettings
from services.shared.settings import SharedSettings
from tests.compose.conftest import ALL_SERVICES, LONG_LIVED_SERVICES, Config, Configure

Service = dict[str, Any]


@pytest.fixture(scope="module", params=ALL_SERVICES)
def service(request: pytest.FixtureRequest, config: Config) -> Service:
    """Each service of each variant."""
    return dict(config["services"][request.param])


def test_it_runs_as_a_numeric_user_other_than_root(service: Service) -> None:
    user, group = service["user"].split(":")

    assert int(user) > 0
    assert int(group) > 0


def test_its_root_is_read_only_and_tmp_is_a_bounded_tmpfs(service: Service) -> None:
    assert service["read_only"] is True
    assert all(re.search(r"^/tmp:size=\d+m\b", mount) for mount in service.get("tmpfs", []))


def test_it_has_no_capabilities_and_cannot_gain_any(service: Service) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("cap_add")
    assert not service.get("privileged")


def test_it_has_an_init_that_reaps_and_forwards_signals(service: Service) -> None:
    assert service["init"] is True


def test_it_mounts_no_docker_socket_and_no_folder_of_the_host(service: Service) -> None:
    assert {mount["type"] for mount in service.get("volumes", [])} <= {"volume"}


def test_it_shares_no_namespace_with_the_host(service: Service) -> None:
    assert not {"pid", "ipc", "userns_mode", "uts", "cgroup"} & set(service)
    assert service.get("network_mode") in (None, "none")


def test_its_logs_are_rotated(service: Service) -> None:
    assert service["logging"]["driver"] == "json-file"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


def test_its_number_of_processes_is_limited(service: Service) -> None:
    assert 0 < service["pids_limit"] <= 1024


@pytest.mark.parametrize("name", [name for name in ALL_SERVICES if name != "engine"])
def test_its_memory_is_limited(config: Config, name: str) -> None:
    assert 0 < int(config["services"][name]["mem_limit"]) <= 2 << 30


def test_the_memory_of_the_engine_can_be_limited(configure: Configure) -> None:
    """By default the plan of the engine is the limit, because the operator chooses the models."""
    limited = configure(ENGINE_MEMORY="24g")["services"]["engine"]

    assert int(limited["mem_limit"]) == 24 << 30
    assert int(limited["shm_size"]) == 1 << 30


@pytest.mark.parametrize("name", LONG_LIVED_SERVICES)
def test_it_restarts_and_has_a_cheap_health_check(config: Config, name: str) -> None:
    """Started for ever, a Python process every few seconds takes a share of a small computer."""
    service = config["services"][name]
    check = service["healthcheck"]

    assert service["restart"] == "unless-stopped"
    assert not re.search("python|curl|wget", " ".join(check["test"]))
    assert check["interval"] == "30s"
    assert {"timeout", "retries", "start_period"} <= set(check)


def test_a_restarting_engine_does_not_make_the_api_unhealthy(config: Config) -> None:
    """The health of the api is that it answers; readiness is the health of another service."""
    checks = {name: config["services"][name]["healthcheck"]["test"] for name in ("api", "ready")}

    assert (checks["api"][-1], checks["ready"][-1]) == ("/health", "/ready")
    assert "ready" not in config["services"]["api"]["depends_on"]


@pytest.mark.parametrize(
    ("name", "cls"), [("api", ApiSettings), ("engine", EngineSettings)], ids=["api", "engine"]
)
def test_its_stop_grace_period_is_longer_than_its_drain_time(
    config: Config, name: str, cls: type[SharedSettings]
) -> None:
    drain_seconds = cls.model_fields["drain_seconds"].default

    assert config["services"][name]["stop_grace_period"] >= drain_seconds + 10


@pytest.mark.parametrize("name", ["api", "engine", "puller", "redis"])
def test_no_service_starts_before_the_secrets_exist(config: Config, name: str) -> None:
    dependencies = config["services"][name]["depends_on"]

    assert dependencies["secrets"] == "service_completed_successfully"


def test_the_secrets_service_runs_once_and_without_a_network(config: Config) -> None:
    secrets = config["services"]["secrets"]

    assert secrets["restart"] == "no"
    assert secrets["network_mode"] == "none"
