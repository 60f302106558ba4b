"""The four services as commands: what is run, with which environment, and when it counts as ready.

Everything a service needs comes by environment (SPINDLL_*), as in a container; what the person has
set stays, but for the addresses by which the services find each other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.cli.options import StackOptions
from services.cli.paths import StackPaths
from services.cli.supervise import redis_server
from services.cli.supervise.probes import (
    AcceptsConnections,
    HttpOk,
    ReadinessProbe,
    RedisPing,
    StaysAlive,
)
from services.cli.supervise.state_file import connect_host
from services.cli.supervise.state_machine import ServicePolicy

ROOT = Path(__file__).resolve().parents[3]
TINY_MODEL = ROOT / "tests" / "models" / "tiny" / "tiny-f16.gguf"
KILL_AFTER_DRAIN_SECONDS = 5.0

# In the environment of every process of a stack: whose it is, so that strays can be told from
# strangers.
STACK_VARIABLE = "SPINDLL_STACK"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One child process."""

    policy: ServicePolicy
    command: tuple[str, ...]
    log: Path
    probe: ReadinessProbe
    environment: Mapping[str, str] = field(repr=False)
    sockets: tuple[Path, ...] = ()  # stale ones are removed before it starts

    @property
    def name(self) -> str:
        """Its folder's name under services/."""
        return self.policy.name


def build_environment(
    options: StackOptions, paths: StackPaths, inherited: Mapping[str, str]
) -> dict[str, str]:
    """What every service of this stack is told."""
    told = dict(inherited)
    told.setdefault("SPINDLL_REDIS_URL", redis_server.url(paths))
    told.setdefault("SPINDLL_DRAIN_SECONDS", f"{options.drain_seconds:g}")
    if TINY_MODEL.exists():
        told.setdefault("SPINDLL_TINY_MODEL", str(TINY_MODEL))
    told |= {
        STACK_VARIABLE: str(options.data_dir),
        "SPINDLL_DATA_DIR": str(options.data_dir),
        "SPINDLL_ENGINE_ADDRESS": f"unix:{paths.engine_socket}",
        "SPINDLL_API_HOST": options.host,
        "SPINDLL_API_PORT": str(options.port),
        "SPINDLL_GRPC_PORT": str(options.grpc_port),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        # gunicorn forks after macOS' frameworks were loaded.
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
    }
    if options.workers is not None:
        told["SPINDLL_API_WORKERS"] = str(options.workers)
    return told


def build_services(
    options: StackOptions, paths: StackPaths, inherited: Mapping[str, str]
) -> tuple[ServiceSpec, ...]:
    """In the order they start. Problem when there is no Redis to start."""
    told = build_environment(options, paths, inherited)
    drain = float(told["SPINDLL_DRAIN_SECONDS"]) + KILL_AFTER_DRAIN_SECONDS
    ours = not inherited.get("SPINDLL_REDIS_URL")
    needs = ("redis",) if ours else ()

    def python_service(
        name: str, probe: ReadinessProbe, sockets: tuple[Path, ...] = ()
    ) -> ServiceSpec:
        return ServiceSpec(
            policy=ServicePolicy(name, needs=needs, drain_seconds=drain),
            command=(sys.executable, "-P", "-m", f"services.{name}"),
            log=paths.log_path(name),
            probe=probe,
            environment=told,
            sockets=sockets,
        )

    alive = HttpOk(connect_host(options.host), options.port, "/health")
    rest = (
        python_service("engine", AcceptsConnections(paths.engine_socket), (paths.engine_socket,)),
        python_service("puller", StaysAlive()),
        python_service("api", alive),
    )
    return (_redis(paths, told), *rest) if ours else rest


def _redis(paths: StackPaths, told: Mapping[str, str]) -> ServiceSpec:
    return ServiceSpec(
        policy=ServicePolicy("redis", drain_seconds=KILL_AFTER_DRAIN_SECONDS),
        command=(redis_server.server_binary(), *redis_server.arguments(paths)),
        log=paths.log_path("redis"),
        probe=RedisPing(paths.redis_socket),
        environment=told,
        sockets=(paths.redis_socket,),
    )
