"""Generate .env.example from the settings classes: `python -m tests.repository.env_example`.

The shared settings come first; every other setting appears once, under the first service that has
it. Every setting is commented out and shows its default, so the unchanged file has no effect.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from services.api.settings import ApiSettings
from services.engine.settings import EngineSettings
from services.puller.settings import PullerSettings
from services.shared.settings import SharedSettings
from tests.compose.yaml_config import read_config

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILES = (ROOT / "compose.yaml", ROOT / "docker" / "engines.yaml")
COMPOSE_DESCRIPTIONS = {
    "API_MEMORY": "Memory limit of the api.",
    "BIND": "Host address on which the API is published; 0.0.0.0: all networks of the host.",
    "BUILD_JOBS": "Compilers that run at once; empty: one per core, at most one per 3 GiB of memory.",
    "CMAKE_EXTRA": "Additional CMake options for compiling llama.cpp in the images.",
    "CREDENTIALS": "Volume, or folder on the host, with token files and certificates for the puller.",
    "CUDA12_PYTHON_IMAGE": "Base image of the variant cuda12; it must be of Debian 13.",
    "CUDA_ARCHS": "GPU architectures to compile for, such as 89-real; empty: all that the variant supports.",
    "ENGINE": "Variant of the engine: cpu; cuda for NVIDIA GPUs, cuda12 for older ones or older drivers.",
    "ENGINE_MEMORY": "Memory limit of the engine; 0: no limit.",
    "ENGINE_SHM": "Size of the engine's /dev/shm.",
    "GPU_IDS": "GPUs of the engine, as nvidia-smi numbers them: 0, or 0,2; all.",
    "GRPC_PORT": "Published gRPC port.",
    "HEALTH_INTERVAL": "Time between two health checks; `up --wait` takes at least that long.",
    "HTTPS_PROXY": "Proxy of the puller for https://.",
    "HTTP_PROXY": "Proxy of the puller for http://.",
    "LLAMA_INDEX": "Package index with llama-cpp-python wheels; empty: compile from source.",
    "MODELS": "Volume, or folder on the host, for the models.",
    "MODEL_SETTINGS": "Volume, or folder on the host, with a TOML file per model that differs.",
    "NO_PROXY": "Hosts that the puller connects to without a proxy, with commas.",
    "PORT": "Published HTTP port.",
    "PULLER_MEMORY": "Memory limit of the puller.",
    "PYTHON_IMAGE": "Base image of the services.",
    "REDIS_IMAGE": "Image of Redis, or of Valkey.",
    "REDIS_MAXMEMORY": "Size of the data at which Redis refuses writes.",
    "REDIS_MEMORY": "Memory limit of Redis; more than twice the data, for rewriting its file.",
    "SSL_CERT_FILE": "Certificate authorities for the puller: /data/credentials/NAME.",
    "STOP_GRACE": "How long a container may take to stop; longer than SPINDLL_DRAIN_SECONDS.",
    "TAG": "Tag of the images.",
    "TZ": "Time zone of the hours of downloads, and of dates in prompts.",
}

SECTIONS: tuple[tuple[str, type[BaseSettings]], ...] = (
    ("every service", SharedSettings),
    ("api", ApiSettings),
    ("engine", EngineSettings),
    ("puller", PullerSettings),
)
HEADER = """\
# Settings of Spindll. `make env` generates this file from the settings classes; a test checks it.
# Copy it to .env for `docker compose`, or export the variables for `./spindll up`.
# Every line shows a default and is commented out: the unchanged file has no effect.
"""
NOT_IN_CONTAINERS = "Not in containers: compose.yaml sets it."


def render_env_example() -> str:
    """The text of the file."""
    return "\n\n".join([HEADER.rstrip(), *_render_sections(), _render_compose()]) + "\n"


def setting_variables() -> set[str]:
    """The environment variables of all settings."""
    fields = (name for _, cls in SECTIONS for name in cls.model_fields)
    return {_variable_name(name) for name in fields}


def find_settings_of_compose() -> set[str]:
    """The variables of settings that compose.yaml passes on from the shell or .env."""
    names = setting_variables()
    services = read_config({name: name for name in names})["services"].values()
    return {v for service in services for n, v in service["environment"].items() if n == v} & names


def _render_sections() -> Iterator[str]:
    seen: set[str] = set()
    passed = find_settings_of_compose()
    for title, cls in SECTIONS:
        fields = {n: f for n, f in cls.model_fields.items() if n not in seen}
        seen |= set(fields)
        entries = (
            _render_entry(n, f, is_passed=_variable_name(n) in passed) for n, f in fields.items()
        )
        yield "\n".join([f"# ---- {title}", *entries])


def _render_entry(name: str, field: FieldInfo, *, is_passed: bool) -> str:
    text = (field.description or "") + ("" if is_passed else f" {NOT_IN_CONTAINERS}")
    comment = textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")
    return "\n".join([*comment, f"#{_variable_name(name)}={_format_default(field)}"])


def _variable_name(name: str) -> str:
    return f"SPINDLL_{name.upper()}"


def _format_default(field: FieldInfo) -> str:
    """The default as text; empty if it is unset or depends on the computer."""
    value = field.default
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple | list | frozenset):
        return ",".join(str(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_compose_variables() -> dict[str, str]:
    """The variables that the Compose files read, without those of settings, and their defaults.

    A default that differs between the variants of the engine is empty.
    """
    text = "".join(path.read_text() for path in COMPOSE_FILES)
    defaults: dict[str, set[str]] = {}
    for name, default in re.findall(r"\$\{([A-Z0-9_]+):?-([^}]*)\}", text):
        defaults.setdefault(name, set()).add(default)
    for service in read_config({})["services"].values():
        for name, value in service["environment"].items():
            if value is None:
                defaults.setdefault(name, {""})
    return {
        name: min(found) if len(found) == 1 else ""
        for name, found in defaults.items()
        if name not in setting_variables()
    }


def _render_compose() -> str:
    lines = ["# ---- compose.yaml: containers only"]
    for name, default in sorted(read_compose_variables().items()):
        lines += [f"# {COMPOSE_DESCRIPTIONS.get(name, '')}".rstrip(), f"#{name}={default}"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(render_env_example(), end="")
