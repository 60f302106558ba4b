"""Fixtures that run Docker Compose, or skip with the reason why they cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Config = dict[str, Any]
Configure = Callable[..., Config]
VARIANTS = ["cpu", "cuda"]
OWN_SERVICES = ["api", "engine", "puller"]
ALL_SERVICES = [*OWN_SERVICES, "redis", "secrets"]


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
def configure(compose_cli: None) -> Configure:
    """Return the configuration that Compose reads with given variables."""

    def read(**variables: str) -> Config:
        done = compose("config", "--format", "json", variables=variables)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return read


@pytest.fixture(scope="module", params=VARIANTS)
def config(request: pytest.FixtureRequest, configure: Configure) -> Config:
    """The configuration of each variant, without other variables."""
    return configure(ENGINE=request.param)
