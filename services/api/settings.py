"""The settings of the api: addresses, limits and time-outs. See services/shared/settings.py."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from services.shared.settings import SharedSettings


class ApiSettings(SharedSettings):
    """Read by gunicorn's configuration in the master, and by `asgi` for the workers."""

    api_host: str = Field(
        default="127.0.0.1", description="Address the HTTP and public gRPC servers listen on."
    )
    api_port: int = Field(default=8080, ge=0, le=65535, description="HTTP port.")
    grpc_port: int = Field(
        default=50051, ge=0, le=65535, description="Public gRPC port; 0 switches it off."
    )
    api_workers: int = Field(
        default=0, ge=0, le=64, description="Worker processes; 0: one per core, at most two."
    )
    max_body_bytes: int = Field(
        default=32 << 20, ge=1024, description="Largest request body; larger ones get a 413."
    )
    sse_keepalive_seconds: float = Field(
        default=5.0,
        gt=0,
        description="Interval of the comments that a stream sends while it has no text.",
    )
    key_cache_seconds: float = Field(
        default=30.0, ge=0, description="How long a worker caches an API key that it has looked up."
    )
    request_timeout_seconds: float = Field(
        default=0.0, ge=0, description="Time limit of a request; 0: none."
    )
    load_timeout_seconds: float = Field(
        default=900.0, gt=0, description="Time limit of an explicit load or unload."
    )
    drain_seconds: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Time that running answers have to finish when the api stops.",
    )
    pull_on_demand: Literal["off", "admin", "everyone"] = Field(
        default="off",
        description="Whose requests for a model that is not stored start its download: off, admin "
        "(or true), everyone.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Browser origins that may call the API, comma separated; * for all."
    )
    forwarded_allow_ips: str = Field(
        default="127.0.0.1",
        description="Proxies whose X-Forwarded-* headers are trusted, comma separated.",
    )

    @field_validator("pull_on_demand", mode="before")
    @classmethod
    def _parse_policy(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        text = value.strip().lower()
        aliases = {"true": "admin", "1": "admin", "false": "off", "0": "off"}
        return aliases.get(text, text)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def worker_count(self) -> int:
        """The number of gunicorn workers to run."""
        return self.api_workers or min(2, os.cpu_count() or 1)
