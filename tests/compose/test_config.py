"""The guarantees of compose.yaml: networks, volumes, settings, devices, images."""

from __future__ import annotations

import re
from typing import Any

import pytest

from services.api.settings import ApiSettings
from services.engine.settings import EngineSettings
from services.puller.settings import PullerSettings
from services.shared.redis import redis_users
from services.shared.settings import SharedSettings
from tests.compose.conftest import (
    ALL_SERVICES,
    GPU_VARIANTS,
    OWN_SERVICES,
    ROOT,
    Config,
    Configure,
    compose,
)

Service = dict[str, Any]

PROXY_VARIABLES = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"}


def test_without_any_variable_the_stack_is_the_cpu_variant(configure: Configure) -> None:
    assert configure() == configure(ENGINE="cpu")


def test_the_services_are_ours_and_redis_secrets_and_ready(config: Config) -> None:
    assert config["name"] == "spindll"
    assert sorted(config["services"]) == ALL_SERVICES


def test_an_unknown_variant_is_refused(compose_cli: None) -> None:
    done = compose("config", "--quiet", variables={"ENGINE": "rocm"})

    assert done.returncode != 0
    assert '"rocm"' in done.stderr


# ---- networks


def test_only_the_puller_reaches_outside_networks(config: Config) -> None:
    members = {
        name: {other for other, service in config["services"].items() if name in _networks(service)}
        for name in config["networks"]
    }

    assert members == {
        "front": {"api"},
        "back": {"api", "engine", "puller", "ready", "redis"},
        "egress": {"puller"},
    }
    assert config["networks"]["back"]["internal"] is True
    # No route back, and no resolver for names outside.
    assert config["services"]["api"]["dns"] == ["127.0.0.1"]
    masquerade = "com.docker.network.bridge.enable_ip_masquerade"
    assert config["networks"]["front"]["driver_opts"] == {masquerade: "false"}


def test_only_the_api_is_published_and_only_on_loopback(config: Config) -> None:
    published = {
        (name, port["host_ip"], port["published"], port["target"])
        for name, service in config["services"].items()
        for port in service.get("ports", [])
    }

    assert published == {
        ("api", "127.0.0.1", "8080", 8080),
        ("api", "127.0.0.1", "50051", 50051),
    }


def test_the_published_address_and_ports_can_be_chosen(configure: Configure) -> None:
    api = configure(BIND="192.0.2.7", PORT="80", GRPC_PORT="81")["services"]["api"]

    assert {(port["host_ip"], port["published"]) for port in api["ports"]} == {
        ("192.0.2.7", "80"),
        ("192.0.2.7", "81"),
    }


def test_an_ipv6_address_needs_brackets(compose_cli: None) -> None:
    refused, accepted = (
        compose("config", "--quiet", variables={"BIND": address}) for address in ("::", "[::]")
    )

    assert "Invalid ip address" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr


# ---- volumes


def test_every_volume_is_writable_only_for_its_owners(config: Config) -> None:
    writers: dict[str, set[str]] = {}
    for name, service in config["services"].items():
        for mount in service.get("volumes", []):
            owners = writers.setdefault(mount["source"], set())
            if not mount.get("read_only"):
                owners.add(name)

    assert writers == {
        "models": {"api", "puller"},
        "model-settings": set(),
        "credentials": set(),
        "kvcache": {"engine"},
        "engine-state": {"engine"},
        "engine-secrets": {"engine"},
        "secrets": {"api"},
        "redis-users": {"secrets"},
        "api-redis-secret": {"secrets"},
        "puller-redis-secret": {"secrets"},
        "engine-redis-secret": {"secrets"},
        "redis": {"redis"},
    }


def test_only_the_api_mounts_the_api_keys(config: Config) -> None:
    services = {
        name
        for name, service in config["services"].items()
        if any(mount["source"] == "secrets" for mount in service.get("volumes", []))
    }

    assert services == {"api"}


def test_only_the_puller_mounts_the_credentials_for_registries(configure: Configure) -> None:
    services = configure(CREDENTIALS="/etc/spindll")["services"]
    mounted = {
        (name, mount["target"], bool(mount.get("read_only")))
        for name, service in services.items()
        for mount in service.get("volumes", [])
        if mount["source"] == "/etc/spindll"
    }

    assert mounted == {("puller", "/data/credentials", True)}


def test_folders_of_the_host_can_replace_the_volumes(configure: Configure) -> None:
    services = configure(MODELS="/srv/models", MODEL_SETTINGS="/etc/spindll")["services"]

    for name in OWN_SERVICES:
        mounts = {mount["target"]: mount for mount in services[name]["volumes"]}
        assert mounts["/data/models"]["source"] == "/srv/models"
        assert bool(mounts["/data/models"].get("read_only")) is (name == "engine")
    assert mounts.get("/data/models.d") is None  # the last service is the puller


# ---- redis


def test_redis_has_users_an_append_only_file_and_no_eviction(config: Config) -> None:
    redis = config["services"]["redis"]
    command = redis["command"]

    assert command[:2] == ["redis-server", "--aclfile /run/redis-users/users.acl"]
    assert {"--appendonly yes", "--maxmemory 256mb", "--maxmemory-policy noeviction"} <= set(
        command
    )
    assert "ports" not in redis


def test_every_service_has_its_own_user_of_redis_and_sees_only_its_password(
    config: Config,
) -> None:
    for name in OWN_SERVICES:
        service = config["services"][name]
        mounts = {
            mount["source"]: mount["target"]
            for mount in service["volumes"]
            if "redis" in mount["source"]
        }
        assert mounts == {f"{name}-redis-secret": "/data/redis-secret"}
        assert service["environment"]["SPINDLL_REDIS_URL"] == f"redis://{name}@redis:6379/0"
        assert name in redis_users.USERS


def test_the_users_are_written_where_the_services_look(config: Config) -> None:
    secrets = config["services"]["secrets"]
    folder = "/data/redis-users"
    mounts = {mount["source"]: mount["target"] for mount in secrets["volumes"]}

    assert secrets["command"] == ["python", "-m", "services.shared.redis.redis_users", folder]
    assert mounts == {
        "redis-users": f"{folder}/redis",
        **{f"{name}-redis-secret": f"{folder}/{name}" for name in OWN_SERVICES},
    }


def test_the_compose_files_contain_no_password_key_or_token() -> None:
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "docker" / "engines.yaml").read_text()

    assert not re.search(r"(PASSWORD|TOKEN|SECRET|KEY)[A-Z_]*:[ ]*[^\s/#]", text)


# ---- settings and devices


@pytest.mark.parametrize(
    ("name", "cls"),
    [("api", ApiSettings), ("engine", EngineSettings), ("puller", PullerSettings)],
    ids=OWN_SERVICES,
)
def test_compose_passes_every_setting_to_its_service(
    config: Config, name: str, cls: type[SharedSettings]
) -> None:
    expected = {f"SPINDLL_{field}".upper() for field in cls.model_fields} - {"SPINDLL_TINY_MODEL"}
    # What this service does not need, or has its default of here:
    expected -= {"SPINDLL_ENGINE_ADDRESS"} if name == "puller" else set()
    passed = set(config["services"][name]["environment"]) - {"TZ"} - PROXY_VARIABLES

    assert passed == expected, "list the settings in compose.yaml, under `environment`"


def test_proxies_and_authorities_reach_the_puller_and_no_other_service(
    configure: Configure,
) -> None:
    variables = {name: f"value of {name}" for name in PROXY_VARIABLES}
    services = configure(**variables)["services"]
    received = {
        name: {k: v for k, v in service["environment"].items() if k in PROXY_VARIABLES}
        for name, service in services.items()
    }

    assert received.pop("puller") == variables
    assert not any(received.values())


def test_the_time_zone_reaches_the_api_and_the_puller(configure: Configure) -> None:
    """It decides the dates that chat templates print, and the hours of downloads."""
    services = configure(TZ="Europe/Berlin")["services"]
    zones = {name: service["environment"].get("TZ") for name, service in services.items()}

    assert {name for name, zone in zones.items() if zone == "Europe/Berlin"} == {"api", "puller"}


def test_a_setting_reaches_the_service_it_belongs_to_and_no_other(configure: Configure) -> None:
    services = configure(SPINDLL_HF_TOKEN="hf_x", SPINDLL_THREADS="3")["services"]
    received = {
        (name, variable)
        for name in OWN_SERVICES
        for variable, value in services[name]["environment"].items()
        if value in ("hf_x", "3")
    }

    assert received == {("puller", "SPINDLL_HF_TOKEN"), ("engine", "SPINDLL_THREADS")}


@pytest.mark.parametrize("variant", GPU_VARIANTS)
def test_a_gpu_engine_reserves_gpus_with_libcuda_and_nvml(
    configure: Configure, variant: str
) -> None:
    """Docker replaces the capabilities of the image by this list: `compute` brings libcuda."""
    services = configure(ENGINE=variant)["services"]
    [device] = services["engine"]["deploy"]["resources"]["reservations"]["devices"]

    assert (device["driver"], device["device_ids"]) == ("nvidia", ["all"])
    assert {"gpu", "compute", "utility"} <= set(device["capabilities"])


def test_the_variants_differ_in_the_engine_only(configure: Configure) -> None:
    cpu, *others = (configure(ENGINE=variant)["services"] for variant in ("cpu", *GPU_VARIANTS))

    assert not any(service.get("deploy") for service in cpu.values())
    for services in others:
        assert {name for name in ALL_SERVICES if cpu[name] != services[name]} == {"engine"}


def test_gpus_can_be_chosen(configure: Configure) -> None:
    engine = configure(ENGINE="cuda", GPU_IDS="0,2")["services"]["engine"]
    [device] = engine["deploy"]["resources"]["reservations"]["devices"]

    assert device["device_ids"] == ["0,2"]
    assert "count" not in device


def test_cuda_12_has_code_for_older_gpus_and_its_own_image(configure: Configure) -> None:
    cuda, cuda12 = (configure(ENGINE=name)["services"]["engine"] for name in GPU_VARIANTS)

    assert cuda["build"]["args"]["CUDA_ARCHS"].split(";")[0] == "75-real"
    assert cuda12["build"]["args"]["CUDA_ARCHS"].split(";")[:3] == ["60-real", "61-real", "70-real"]
    assert cuda12["build"]["args"]["CUDA"] == "12"
    assert cuda["image"] != cuda12["image"]


def test_a_gpu_engine_requires_a_gpu_unless_the_operator_says_otherwise(
    configure: Configure,
) -> None:
    def read(**variables: str) -> str | None:
        environment = configure(**variables)["services"]["engine"]["environment"]
        required: str | None = environment["SPINDLL_REQUIRE_GPU"]
        return required

    assert [read(ENGINE=variant) for variant in GPU_VARIANTS] == ["true", "true"]
    assert read(ENGINE="cuda", SPINDLL_REQUIRE_GPU="false") == "false"
    assert read() is None


def _networks(service: Service) -> set[str]:
    return set(service.get("networks") or {})
