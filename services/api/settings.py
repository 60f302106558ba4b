"""The settings of the api: addresses, limits and time-outs. See services/shared/settings.py."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from services.api.access.client_address import ClientAddresses
from services.shared.settings import SharedSettings


class ApiSettings(SharedSettings):
    """Read by gunicorn's configuration in the master, and by `asgi` for the workers."""

    api_host: str = Field(
        default="127.0.0.1", description="Address on which the HTTP and public gRPC servers listen."
    )
    api_port: int = Field(default=8080, ge=0, le=65535, description="HTTP port.")
    grpc_port: int = Field(
        default=50051, ge=0, le=65535, description="Public gRPC port; 0: no gRPC server."
    )
    api_workers: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Number of worker processes; 0: one per core, at most two.",
    )
    max_body_bytes: int = Field(
        default=32 << 20,
        ge=1024,
        description="Maximum size of a request body; a larger one is refused with 413.",
    )
    sse_keepalive_seconds: float = Field(
        default=5.0,
        gt=0,
        description="A stream without new text sends a comment at this interval.",
    )
    key_cache_seconds: float = Field(
        default=30.0,
        ge=0,
        description="How long a worker accepts the keys that it knows while Redis does not answer. "
        "Otherwise a revoked key ends within two seconds. Key files do not need Redis.",
    )
    request_timeout_seconds: float = Field(
        default=0.0, ge=0, description="Time limit of a request; 0: no limit."
    )
    receive_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        description="A connection that sends no complete request head within this time, or pauses this "
        "long within a body, is closed.",
    )
    client_timeout_seconds: float = Field(
        default=60.0,
        ge=1,
        le=3600,
        description="The requests of a client that cannot be reached any more end after this time.",
    )
    shared_tenant: bool = Field(
        default=False,
        description="All API keys are one tenant: a prompt that one key computed is reused for the "
        "others. By default only for the same key, so that no key learns what another asked.",
    )
    canonical_prompts: bool = Field(
        default=True,
        description="Remove from prompts what changes without a meaning, so that they are found in "
        "the prompt cache: the billing header of Claude Code, the order of tools and of the keys "
        "in their schemas.",
    )
    load_timeout_seconds: float = Field(
        default=900.0, gt=0, description="Time limit of an explicit load of a model."
    )
    drain_seconds: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="How long running answers may take to finish when the service stops.",
    )
    pull_on_demand: Literal["off", "admin", "everyone"] = Field(
        default="off",
        description="Whose requests for a model that is not installed start its download: off, "
        "admin (or true), everyone.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Browser origins that may call the API, separated by commas; *: all.",
    )
    forwarded_allow_ips: str = Field(
        default="127.0.0.1",
        description="Proxies whose X-Forwarded-For header is trusted: addresses or networks, "
        "separated by commas; *: any.",
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

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        ClientAddresses(value)
        return value

    @property
    def worker_count(self) -> int:
        """The number of gunicorn workers to run."""
        return self.api_workers or min(2, os.cpu_count() or 1)
