"""The configuration of compose.yaml, read without Docker; and Compose, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.compose.yaml_config import read_config

ROOT = Path(__file__).resolve().parents[2]
Config = dict[str, Any]
Configure = Callable[..., Config]
GPU_VARIANTS = ["cuda", "cuda12"]
VARIANTS = ["cpu", *GPU_VARIANTS]
OWN_SERVICES = ["api", "engine", "puller"]
LONG_LIVED_SERVICES = [*OWN_SERVICES, "ready", "redis"]
ALL_SERVICES = [*LONG_LIVED_SERVICES, "secrets"]


def compose(
    *arguments: str,
    variables: Mapping[str, str],
    folder: Path = ROOT,
    timeout_seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run `docker compose …` in a folder, with these variables and without a .env file."""
    inherited = {
        name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ
    }
    return subprocess.run(
        ["docker", "compose", "--env-file", os.devnull, *arguments],
        cwd=folder,
        env=inherited | dict(variables),
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
    )


def _missing_cli() -> str | None:
    """The missing program, or None."""
    if shutil.which("docker") is None:
        return "no docker CLI"
    found = subprocess.run(["docker", "compose", "version"], capture_output=True)
    return None if found.returncode == 0 else "no Compose plugin of the docker CLI"


@pytest.fixture(scope="session")
def compose_cli() -> None:
    """Skip without Compose. It needs no Docker engine to read its files."""
    if reason := _missing_cli():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_engine(compose_cli: None) -> None:
    """Skip if no Docker engine answers."""
    found = subprocess.run(["docker", "info"], capture_output=True, timeout=30)
    if found.returncode != 0:
        pytest.skip("no Docker engine answers")


@pytest.fixture(scope="session")
def configure() -> Configure:
    """Return the configuration with given variables."""

    def read(**variables: str) -> Config:
        return read_config(variables)

    return read


@pytest.fixture(scope="module", params=VARIANTS)
def config(request: pytest.FixtureRequest, configure: Configure) -> Config:
    """The configuration of each variant, without other variables."""
    return configure(ENGINE=request.param)
