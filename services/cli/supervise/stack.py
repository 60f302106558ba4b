"""The four services of a stack: their commands, environments and readiness probes.

A service gets its settings from SPINDLL_* variables, as in a container, and only those that it has.
Variables that the user has set are kept, except for the addresses and ports of this stack.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.cli.options import StackOptions
from services.cli.paths import StackPaths
from services.cli.supervise import redis_server
from services.cli.supervise.checks.probes import (
    AcceptsConnections,
    HttpOk,
    ReadinessProbe,
    RedisPing,
    StaysAlive,
)
from services.cli.supervise.service_variables import is_for_service
from services.cli.supervise.state_file import connect_host
from services.cli.supervise.state_machine import ServicePolicy
from services.shared.mlx_support import has_only_mlx
from services.shared.redis.redis_users import HEALTH_USER, REDIS_FOLDER

ROOT = Path(__file__).resolve().parents[3]
TINY_MODELS = ROOT / "tests" / "models" / "tiny"
KILL_AFTER_DRAIN_SECONDS = 5.0

# In the environment of every process of a stack, with its data directory as the value. It shows
# which leftover processes belong to a stack.
STACK_VARIABLE = "SPINDLL_STACK"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """How to run one service as a child process."""

    policy: ServicePolicy
    command: tuple[str, ...]
    log: Path
    probe: ReadinessProbe
    environment: Mapping[str, str] = field(repr=False)
    sockets: tuple[Path, ...] = ()  # removed before the service starts, since they may be stale

    @property
    def name(self) -> str:
        """The name of the service; except for redis, its folder under services/."""
        return self.policy.name


def build_environment(
    service: str, options: StackOptions, paths: StackPaths, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one service of a stack, without the settings of the others."""
    environment = dict(inherited)
    if "SPINDLL_REDIS_URL" not in environment:
        environment["SPINDLL_REDIS_URL"] = redis_server.url(paths, service)
        environment["SPINDLL_REDIS_PASSWORD_FILE"] = str(redis_server.password_file(paths, service))
    environment.setdefault("SPINDLL_DRAIN_SECONDS", f"{options.drain_seconds:g}")
    if (tiny := find_tiny_model()).exists():
        environment.setdefault("SPINDLL_TINY_MODEL", str(tiny))
    environment |= {
        "SPINDLL_DATA_DIR": str(options.data_dir),
        "SPINDLL_ENGINE_ADDRESS": f"unix:{paths.engine_socket}",
        "SPINDLL_API_HOST": options.host,
        "SPINDLL_API_PORT": str(options.port),
        "SPINDLL_GRPC_PORT": str(options.grpc_port),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        # gunicorn forks after frameworks of macOS have been loaded.
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
    }
    if options.workers is not None:
        environment["SPINDLL_API_WORKERS"] = str(options.workers)
    own = {name: value for name, value in environment.items() if is_for_service(name, service)}
    return {**own, STACK_VARIABLE: str(options.data_dir)}


def find_tiny_model() -> Path:
    """The tiny model in the format that the engine of this environment loads."""
    return TINY_MODELS / ("mlx-f16" if has_only_mlx() else "tiny-f16.gguf")


def build_services(
    options: StackOptions, paths: StackPaths, inherited: Mapping[str, str]
) -> tuple[ServiceSpec, ...]:
    """The services in the order of their start. Raises CommandError when there is no Redis."""
    drain = float(inherited.get("SPINDLL_DRAIN_SECONDS") or options.drain_seconds)
    drain += KILL_AFTER_DRAIN_SECONDS
    starts_redis = not inherited.get("SPINDLL_REDIS_URL")
    needs = ("redis",) if starts_redis else ()

    def python_service(
        name: str, probe: ReadinessProbe, sockets: tuple[Path, ...] = ()
    ) -> ServiceSpec:
        return ServiceSpec(
            policy=ServicePolicy(name, needs=needs, drain_seconds=drain),
            command=(sys.executable, "-P", "-m", f"services.{name}"),
            log=paths.log_path(name),
            probe=probe,
            environment=build_environment(name, options, paths, inherited),
            sockets=sockets,
        )

    alive = HttpOk(connect_host(options.host), options.port, "/health")
    rest = (
        python_service("engine", AcceptsConnections(paths.engine_socket), (paths.engine_socket,)),
        python_service("puller", StaysAlive()),
        python_service("api", alive),
    )
    if not starts_redis:
        return rest
    return (_redis(paths, build_environment("redis", options, paths, inherited)), *rest)


def _redis(paths: StackPaths, environment: Mapping[str, str]) -> ServiceSpec:
    return ServiceSpec(
        policy=ServicePolicy("redis", drain_seconds=KILL_AFTER_DRAIN_SECONDS),
        command=(redis_server.server_binary(), *redis_server.arguments(paths)),
        log=paths.log_path("redis"),
        probe=RedisPing(
            paths.redis_socket, HEALTH_USER, redis_server.password_file(paths, REDIS_FOLDER)
        ),
        environment=environment,
        sockets=(paths.redis_socket,),
    )
