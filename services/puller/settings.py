"""The puller's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import NoDecode

from services.puller.download.throttle import Hours
from services.shared.errors import InvalidSettings
from services.shared.settings import SharedSettings

_MIB = 1 << 20


def _validate_hours(text: str | None) -> str | None:
    if text is not None:
        try:
            Hours.parse(text)
        except InvalidSettings as error:
            raise ValueError(error.message) from error
    return text


def _validate_url(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError("must start with https:// or http://")
    return url


Url = Annotated[str, AfterValidator(_validate_url)]


class PullerSettings(SharedSettings):
    """The settings of the puller."""

    ollama_registry: Url = Field(
        default="https://registry.ollama.ai",
        description="The registry for names without a host; an http:// address is allowed.",
    )
    ollama_key_file: Path | None = Field(
        default=None,
        description="An Ollama identity (id_ed25519) for the private models of a registry.",
    )
    hf_endpoint: Url = Field(
        default="https://huggingface.co",
        description="The address of the Hugging Face hub, or of a mirror.",
    )
    hf_token: SecretStr | None = Field(
        default=None, description="A token for gated and private Hugging Face repositories."
    )
    hf_token_file: Path | None = Field(
        default=None, description="A file with this token, instead of the token itself."
    )
    plain_http_hosts: str = Field(
        default="localhost,127.0.0.1",
        description="Hosts, or host:port, for which plain http is allowed, separated by commas.",
    )
    allowed_sources: str = Field(
        default="",
        description="Hosts that models may come from (ollama.com, hf.co), separated by commas;"
        " empty: all hosts.",
    )
    pull_workers: int = Field(
        default=2, ge=1, le=16, description="The number of pull jobs that run at once."
    )
    pull_connections: int = Field(
        default=4, ge=1, le=32, description="The number of connections that a running job may open."
    )
    pull_attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        description="The number of lost workers after which a job fails.",
    )
    pull_timeout_seconds: float = Field(
        default=30.0, gt=0, description="A connection that receives no byte for this time is dead."
    )
    pull_max_bytes_per_second: int | None = Field(
        default=None,
        ge=1024,
        description="The bytes per second that all pull jobs share; empty: no limit.",
    )
    pull_hours: Annotated[str | None, AfterValidator(_validate_hours)] = Field(
        default=None,
        description="The local hours in which downloads run, such as 22-7; empty: always.",
    )
    pull_reserve_bytes: int = Field(
        default=1024 * _MIB,
        ge=0,
        description="The disk space, in bytes, that downloads leave free.",
    )
    pull_webhook_url: Url | None = Field(
        default=None, description="An address that receives a POST when a pull job ends."
    )
    models: Annotated[str, NoDecode] = Field(
        default="", description="Models to pull at the first start, separated by commas."
    )
    tiny_model: Path | None = Field(
        default=None, description="A GGUF file that the first start imports under the name tiny."
    )

    @property
    def hub_token(self) -> str | None:
        """The hub token, from the setting or from the file."""
        if self.hf_token is not None:
            return self.hf_token.get_secret_value()
        return self.hf_token_file.read_text().strip() if self.hf_token_file else None


def split_list(text: str) -> tuple[str, ...]:
    """Split the value of a setting at its commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
