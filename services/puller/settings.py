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
        description="Registry for names without a host; an http:// URL is used without TLS.",
    )
    ollama_key_file: Path | None = Field(
        default=None, description="Ollama key (id_ed25519) for private models in a registry."
    )
    hf_endpoint: Url = Field(
        default="https://huggingface.co", description="URL of the Hugging Face hub, or of a mirror."
    )
    hf_token: SecretStr | None = Field(
        default=None, description="Token for gated and private Hugging Face repositories."
    )
    hf_token_file: Path | None = Field(
        default=None,
        description="File that contains this token, as an alternative to SPINDLL_HF_TOKEN.",
    )
    plain_http_hosts: str = Field(
        default="localhost,127.0.0.1",
        description="Hosts (host or host:port) that may be reached without TLS, separated by commas.",
    )
    allowed_sources: str = Field(
        default="",
        description="Hosts from which models may be pulled (ollama.com, hf.co, ...), separated by "
        "commas; empty: all.",
    )
    pull_workers: int = Field(
        default=2, ge=1, le=16, description="Number of pull jobs that run at the same time."
    )
    pull_connections: int = Field(
        default=4, ge=1, le=32, description="Maximum number of connections per pull job."
    )
    pull_attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        description="How often the worker of a pull job may die before the job fails.",
    )
    pull_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        description="A connection that receives no byte for this long is closed and retried.",
    )
    pull_max_bytes_per_second: int | None = Field(
        default=None,
        ge=1024,
        description="Bandwidth limit of all pull jobs together; empty: no limit.",
    )
    pull_hours: Annotated[str | None, AfterValidator(_validate_hours)] = Field(
        default=None, description="Local hours in which downloads run, such as 22-7; empty: always."
    )
    pull_reserve_bytes: int = Field(
        default=1024 * _MIB,
        ge=0,
        description="Free disk space, in bytes, that downloads do not use.",
    )
    pull_webhook_url: Url | None = Field(
        default=None, description="URL that receives a POST when a pull job ends."
    )
    models: Annotated[str, NoDecode] = Field(
        default="", description="Models to pull at the first start, separated by commas."
    )
    tiny_model: Path | None = Field(
        default=None, description="GGUF file that is imported as the model tiny at the first start."
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
