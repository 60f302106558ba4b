"""Read compose.yaml as Compose does, without Docker, so that its claims are always tested.

It knows as much of Compose as these files use: `${NAME:-default}`, `extends` with a file, and the
short forms of volumes, ports, sizes and times. A test compares the result with `docker compose
config` where there is a Docker CLI.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$\$|\$\{([A-Z0-9_]+)(?::-([^}]*))?\}")
ROOT = Path(__file__).resolve().parents[2]
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
Service = dict[str, Any]


def read_config(variables: Mapping[str, str]) -> dict[str, Any]:
    """The services, networks and volumes, with these variables."""
    config = _interpolate(yaml.safe_load((ROOT / "compose.yaml").read_text()), variables)
    services = {
        name: _normalise(_extend(service, variables), variables)
        for name, service in config["services"].items()
    }
    networks = {name: network or {} for name, network in config["networks"].items()}
    return {"name": config["name"], "services": services, "networks": networks}


def _interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        return "$" if name is None else variables.get(name) or default or ""

    return _VARIABLE.sub(replace, value)


def _extend(service: Service, variables: Mapping[str, str]) -> Service:
    """The service with what it does not set itself from the one that it extends."""
    if "extends" not in service:
        return service
    source = ROOT / service["extends"]["file"]
    bases = _interpolate(yaml.safe_load(source.read_text()), variables)["services"]
    base = bases[service["extends"]["service"]]
    environment = {**base.get("environment", {}), **service.get("environment", {})}
    return {**base, **service, "environment": environment}


def _normalise(service: Service, variables: Mapping[str, str]) -> Service:
    """The long forms, as `docker compose config` prints them."""
    normal = {key: value for key, value in service.items() if key != "extends"}
    for key, convert in _CONVERTERS.items():
        if key in normal:
            normal[key] = convert(normal[key])
    normal["environment"] = {
        name: variables.get(name) if value is None else str(value)
        for name, value in service.get("environment", {}).items()
    }
    return normal


def _parse_volume(text: str) -> dict[str, Any]:
    source, target, *options = text.split(":")
    kind = "bind" if source.startswith((".", "/", "~")) else "volume"
    volume: dict[str, Any] = {"type": kind, "source": source, "target": target}
    return volume | ({"read_only": True} if options == ["ro"] else {})


def _parse_port(text: str) -> dict[str, Any]:
    address, published, target = text.rsplit(":", 2)
    return {"host_ip": address, "published": published, "target": int(target)}


def parse_size(text: str | int) -> int:
    """`256m` in bytes."""
    number, unit = re.fullmatch(r"(\d+)([kmg]?)b?", str(text)).groups()  # type: ignore[union-attr]
    return int(number) * _UNITS[unit]


def parse_seconds(text: str) -> int:
    """`1m30s` in seconds."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text)
    minutes, seconds = found.groups(default="0")  # type: ignore[union-attr]
    return 60 * int(minutes) + int(seconds)


def _parse_dependencies(value: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: dependency["condition"] for name, dependency in value.items()}


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "volumes": lambda value: [_parse_volume(text) for text in value],
    "ports": lambda value: [_parse_port(text) for text in value],
    "networks": set,
    "mem_limit": parse_size,
    "shm_size": parse_size,
    "stop_grace_period": parse_seconds,
    "depends_on": _parse_dependencies,
}
