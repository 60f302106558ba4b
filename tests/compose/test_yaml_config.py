"""Compose reads compose.yaml as the tests of its claims do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.compose.conftest import VARIANTS, Configure, compose
from tests.compose.yaml_config import parse_seconds

Service = dict[str, Any]
CHOSEN = {
    "BIND": "192.0.2.7",
    "MODELS": "/srv/models",
    "GPU_IDS": "0,2",
    "HTTPS_PROXY": "http://proxy.example:3128",
    "SPINDLL_HF_TOKEN_FILE": "/data/credentials/token",
}
# What is the same in both forms.
PLAIN = (
    "user", "read_only", "cap_drop", "security_opt", "init", "tmpfs", "pids_limit", "restart",
    "network_mode", "image", "command", "logging", "environment", "dns",
)  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chosen", [{}, CHOSEN], ids=["defaults", "chosen"])
def test_compose_reads_the_same_services(
    compose_cli: None, configure: Configure, variant: str, chosen: dict[str, str]
) -> None:
    variables = {"ENGINE": variant, **chosen}
    done = compose("config", "--format", "json", variables=variables)
    assert done.returncode == 0, done.stderr
    # Compose escapes dollars again, so that its output can be read as a file.
    theirs = json.loads(done.stdout.replace("$$", "$"))["services"]
    ours = configure(**variables)["services"]

    assert set(ours) == set(theirs)
    for name, service in ours.items():
        assert simplify_ours(service) == simplify_theirs(theirs[name]), name


def simplify_ours(service: Service) -> Service:
    simple = {key: service.get(key) or None for key in PLAIN}
    return simple | {
        "volumes": service.get("volumes", []),
        "ports": service.get("ports", []),
        "networks": service.get("networks", set()),
        "depends_on": service.get("depends_on", {}),
        "mem_limit": service.get("mem_limit", 0),
        "stop_grace_period": service.get("stop_grace_period"),
        "check": service.get("healthcheck", {}).get("test"),
        "resources": service.get("deploy", {}).get("resources"),
    }


def simplify_theirs(service: Service) -> Service:
    simple = {key: service.get(key) or None for key in PLAIN}
    grace = service.get("stop_grace_period")
    volume_keys = ("type", "source", "target", "read_only")
    port_keys = ("host_ip", "published", "target")
    return simple | {
        "volumes": [
            {key: volume[key] for key in volume_keys if key in volume}
            for volume in service.get("volumes", [])
        ],
        "ports": [{key: port[key] for key in port_keys} for port in service.get("ports", [])],
        "networks": set(service.get("networks") or ()),
        "depends_on": {
            name: dependency["condition"]
            for name, dependency in service.get("depends_on", {}).items()
        },
        "mem_limit": int(service.get("mem_limit", 0)),
        "stop_grace_period": parse_seconds(grace) if grace else None,
        "check": service.get("healthcheck", {}).get("test"),
        "resources": service.get("deploy", {}).get("resources"),
    }
