"""The puller's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import NoDecode

from services.puller.download.throttle import Hours
from services.shared.errors import InvalidSettings
from services.shared.keychain import read_secret
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
        description="Registry for names without a host; an http:// address is used as given.",
    )
    ollama_key_file: Path | None = Field(
        default=None, description="Ollama identity (id_ed25519) for private models of a registry."
    )
    hf_endpoint: Url = Field(
        default="https://huggingface.co", description="The Hugging Face hub, or a mirror of it."
    )
    hf_token: SecretStr | None = Field(
        default=None, description="Token for gated and private Hugging Face repositories."
    )
    hf_token_file: Path | None = Field(
        default=None, description="File with that token, instead of the token itself."
    )
    plain_http_hosts: str = Field(
        default="localhost,127.0.0.1",
        description="Hosts, or host:port, that may be asked over plain http, with commas.",
    )
    allowed_sources: str = Field(
        default="",
        description="Hosts models may come from (ollama.com, hf.co, ...), with commas; empty: all.",
    )
    pull_workers: int = Field(default=2, ge=1, le=16, description="Pull jobs that run at once.")
    pull_connections: int = Field(
        default=4, ge=1, le=32, description="Connections a running job may open."
    )
    pull_attempts: int = Field(
        default=5, ge=1, le=100, description="How often a job may lose its worker before it fails."
    )
    pull_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        description="A connection that receives nothing for this long counts as dead.",
    )
    pull_max_bytes_per_second: int | None = Field(
        default=None, ge=1024, description="Bandwidth all pull jobs share; empty: no limit."
    )
    pull_hours: Annotated[str | None, AfterValidator(_validate_hours)] = Field(
        default=None, description="Local hours in which downloads run, such as 22-7; empty: always."
    )
    pull_reserve_bytes: int = Field(
        default=1024 * _MIB, ge=0, description="Bytes of the disk that downloads leave free."
    )
    pull_webhook_url: Url | None = Field(
        default=None, description="Address that gets a POST when a pull job ends."
    )
    models: Annotated[str, NoDecode] = Field(
        default="", description="Models to pull at the first start, with commas."
    )
    heartbeat_file: Path | None = Field(
        default=None,
        description="A file whose time is set every 5 seconds while the puller is alive.",
    )
    tiny_model: Path | None = Field(
        default=None, description="A GGUF file that the first start imports under the name tiny."
    )

    @property
    def hub_token(self) -> str | None:
        """The hub token, from the setting or from the file. InvalidSettings: it is not readable."""
        if self.hf_token is not None:
            return self.hf_token.get_secret_value()
        if self.hf_token_file is None:
            return None
        try:
            return read_secret(self.hf_token_file).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings("the file with the Hugging Face token is not readable") from error


def split_list(text: str) -> tuple[str, ...]:
    """Split the value of a setting at its commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
