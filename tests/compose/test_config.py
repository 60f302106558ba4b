"""What compose.yaml promises, read from Compose's own interpretation of it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from services.api.settings import ApiSettings
from services.engine.settings import EngineSettings
from services.puller.settings import PullerSettings
from services.shared.settings import SharedSettings
from tests.compose.conftest import EVERY, OURS, ROOT, VARIANTS, Config, Configure, compose

Service = dict[str, Any]

# What compose.yaml sets itself, and files that would have to be mounted first.
FIXED = {
    "data_dir", "redis_url", "redis_password_file", "engine_address", "api_host", "api_port",
    "grpc_port", "tiny_model", "hf_token_file", "ollama_key_file",
}  # fmt: skip


def test_without_any_variable_the_stack_is_the_cpu_variant(configure: Configure) -> None:
    assert configure() == configure(ENGINE="cpu")


def test_there_are_our_services_redis_and_the_maker_of_secrets(config: Config) -> None:
    assert config["name"] == "spindll"
    assert sorted(config["services"]) == EVERY


def test_an_unknown_variant_is_refused(compose_cli: None) -> None:
    done = compose("config", "--quiet", variables={"ENGINE": "rocm"})

    assert done.returncode != 0
    assert '"rocm"' in done.stderr


# ---- networks


def test_only_the_puller_reaches_the_world(config: Config) -> None:
    members = {
        name: {other for other, service in config["services"].items() if name in _networks(service)}
        for name in config["networks"]
    }

    assert members == {
        "front": {"api"},
        "back": {"api", "engine", "puller", "redis"},
        "egress": {"puller"},
    }
    assert config["networks"]["back"]["internal"] is True
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


# ---- volumes


def test_every_volume_is_writable_only_for_its_owners(config: Config) -> None:
    writers: dict[str, set[str]] = {}
    for name, service in config["services"].items():
        for mount in service["volumes"]:
            owners = writers.setdefault(mount["source"], set())
            if not mount.get("read_only"):
                owners.add(name)

    assert writers == {
        "models": {"api", "puller"},
        "model-settings": set(),
        "kvcache": {"engine"},
        "engine-state": {"engine"},
        "engine-secrets": {"engine"},
        "secrets": {"api"},
        "redis-secret": {"secrets"},
        "redis": {"redis"},
    }


def test_the_api_keys_are_seen_by_the_api_alone(config: Config) -> None:
    seen = {
        name
        for name, service in config["services"].items()
        if any(mount["source"] == "secrets" for mount in service["volumes"])
    }

    assert seen == {"api"}


def test_folders_of_the_host_can_take_the_place_of_the_volumes(configure: Configure) -> None:
    services = configure(MODELS="/srv/models", MODEL_SETTINGS="/etc/spindll")["services"]

    for name in OURS:
        mounts = {mount["target"]: mount for mount in services[name]["volumes"]}
        assert mounts["/data/models"]["source"] == "/srv/models"
        assert bool(mounts["/data/models"].get("read_only")) is (name == "engine")
    assert mounts.get("/data/models.d") is None  # the last one is the puller


# ---- redis


def test_redis_wants_a_password_keeps_a_log_and_never_evicts(config: Config) -> None:
    redis = config["services"]["redis"]
    command = redis["command"]

    assert command[:2] == ["redis-server", "/run/redis-secret/redis.conf"]
    assert {"--appendonly yes", "--maxmemory 256mb", "--maxmemory-policy noeviction"} <= set(
        command
    )
    assert "ports" not in redis


def test_no_password_key_or_token_is_written_in_the_file() -> None:
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "docker" / "engines.yaml").read_text()

    assert not re.search(r"(PASSWORD|TOKEN|SECRET|KEY)[A-Z_]*:[ ]*[^\s/]", text)
    assert "requirepass '" in text  # generated, in the service `secrets`


# ---- settings and devices


@pytest.mark.parametrize(
    ("name", "cls"),
    [("api", ApiSettings), ("engine", EngineSettings), ("puller", PullerSettings)],
    ids=OURS,
)
def test_every_setting_of_a_service_can_be_given_to_compose(
    config: Config, name: str, cls: type[SharedSettings]
) -> None:
    wanted = {f"SPINDLL_{field}".upper() for field in set(cls.model_fields) - FIXED}
    environment = config["services"][name]["environment"]
    passed = {name for name, value in environment.items() if value is None} - {"TZ"}

    assert passed == wanted, "list the settings in compose.yaml, under `environment`"


def test_a_setting_reaches_the_service_it_belongs_to_and_no_other(configure: Configure) -> None:
    services = configure(SPINDLL_HF_TOKEN="hf_x", SPINDLL_THREADS="3")["services"]
    given = {
        (name, variable)
        for name in OURS
        for variable, value in services[name]["environment"].items()
        if value in ("hf_x", "3")
    }

    assert given == {("puller", "SPINDLL_HF_TOKEN"), ("engine", "SPINDLL_THREADS")}


def test_only_the_cuda_engine_reserves_gpus_and_asks_for_nvml_too(configure: Configure) -> None:
    cpu, cuda = (configure(ENGINE=variant)["services"] for variant in VARIANTS)
    [device] = cuda["engine"]["deploy"]["resources"]["reservations"]["devices"]

    assert (device["driver"], device["count"]) == ("nvidia", -1)
    assert device["capabilities"] == ["gpu", "utility"]
    assert not any(service.get("deploy") for service in cpu.values())
    assert {name for name in EVERY if cpu[name] != cuda[name]} == {"engine"}


def _networks(service: Service) -> set[str]:
    return set(service.get("networks") or {})
