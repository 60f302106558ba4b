"""Write .env.example from the settings classes: `python -m tests.repository.env_example`.

A setting appears once, under the first service that has it; what all share comes first. Every line
is commented out with its default, so the file as it is changes nothing.
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

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILES = (ROOT / "compose.yaml", ROOT / "docker" / "engines.yaml")
COMPOSE_WHY = {
    "API_MEMORY": "Most memory the api may take.",
    "BIND": "Address of this computer the API is published on; 0.0.0.0 for the whole network.",
    "CMAKE_EXTRA": "More options for compiling llama.cpp into the images.",
    "CUDA_ARCHS": "GPU generations the CUDA image is compiled for; fewer compile faster.",
    "ENGINE": "cpu, or cuda for NVIDIA GPUs.",
    "ENGINE_MEMORY": "Most memory the engine may take; 0: no limit.",
    "ENGINE_SHM": "Shared memory of the engine, for its cache of computed prompts.",
    "GRPC_PORT": "Published gRPC port.",
    "LLAMA_INDEX": "Package index with llama-cpp-python wheels; empty: compile.",
    "MODELS": "Volume, or folder of this computer, that holds the models.",
    "MODEL_SETTINGS": "Volume, or folder, with a TOML file for each model that differs.",
    "PORT": "Published HTTP port.",
    "PULLER_MEMORY": "Most memory the puller may take.",
    "PYTHON_IMAGE": "Base image of the services.",
    "REDIS_MAXMEMORY": "Where Redis refuses writes.",
    "REDIS_MEMORY": "Most memory Redis may take; twice the above, for rewriting its file.",
    "STOP_GRACE": "How long a container may take to stop; more than SPINDLL_DRAIN_SECONDS.",
    "TAG": "Tag of the images.",
}

SECTIONS: tuple[tuple[str, type[BaseSettings]], ...] = (
    ("every service", SharedSettings),
    ("api", ApiSettings),
    ("engine", EngineSettings),
    ("puller", PullerSettings),
)
HEADER = """\
# Settings of Spindll. `make env` writes this file from the settings classes; a test compares them.
# Copy it to .env for `docker compose`, or export the variables for `./spindll up`.
# Every line is a default, commented out: this file as it is changes nothing.
"""


def render() -> str:
    """The whole file."""
    return "\n\n".join([HEADER.rstrip(), *_sections(), _compose()]) + "\n"


def variables() -> set[str]:
    """The names of all settings."""
    fields = (name for _, cls in SECTIONS for name in cls.model_fields)
    return {_variable(name) for name in fields}


def _sections() -> Iterator[str]:
    seen: set[str] = set()
    for title, cls in SECTIONS:
        fields = {n: f for n, f in cls.model_fields.items() if n not in seen}
        seen |= set(fields)
        yield "\n".join([f"# ---- {title}", *(_entry(n, f) for n, f in fields.items())])


def _entry(name: str, field: FieldInfo) -> str:
    why = textwrap.wrap(field.description or "", 96, initial_indent="# ", subsequent_indent="# ")
    return "\n".join([*why, f"#{_variable(name)}={_default(field)}"])


def _variable(name: str) -> str:
    return f"SPINDLL_{name.upper()}"


def _default(field: FieldInfo) -> str:
    """As one would write it; empty where the default depends on the computer."""
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


def compose_variables() -> dict[str, str]:
    """What compose.yaml and the files it takes in read as `${NAME:-default}`, with the default."""
    text = "".join(path.read_text() for path in COMPOSE_FILES)
    found = dict(re.findall(r"\$\{([A-Z_]+):?-([^}]*)\}", text))
    return {name: default for name, default in found.items() if name not in variables()}


def _compose() -> str:
    lines = ["# ---- compose.yaml: containers only"]
    for name, default in sorted(compose_variables().items()):
        lines += [f"# {COMPOSE_WHY.get(name, '')}".rstrip(), f"#{name}={default}"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(render(), end="")
