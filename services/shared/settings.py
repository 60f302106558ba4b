"""The settings that two or more services share, and how a wrong setting ends the process.

Every setting is an environment variable `SPINDLL_<FIELD>` and is documented in `.env.example`; a
test compares the two. A process reads its settings once, in its `__main__`, and passes values on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.shared.data_dir import default_data_dir

LogFormat = Literal["text", "json"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class SharedSettings(BaseSettings):
    """The settings of every service. A service extends them with its own fields."""

    model_config = SettingsConfigDict(
        env_prefix="SPINDLL_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Data directory: models, secrets and logs.",
    )
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis URL: redis://[user:password@]host:port/db or unix://[user@]/path?db=0.",
    )
    redis_password_file: Path | None = Field(
        default=None, description="File with the password of Redis, if the URL contains none."
    )
    engine_address: str = Field(
        default="127.0.0.1:50052",
        description="Private gRPC address of the engine: host:port or unix:/path.",
    )
    log_level: LogLevel = Field(default="INFO", description="Least severe level that is logged.")
    log_format: LogFormat = Field(
        default="text", description="Format of log lines: text for people, json for log collectors."
    )

    @property
    def models_dir(self) -> Path:
        """Blobs and manifests; the puller writes them, all services read them."""
        return self.data_dir / "models"

    @property
    def secrets_dir(self) -> Path:
        """API keys; only their owner may read them."""
        return self.data_dir / "secrets"


S = TypeVar("S", bound=BaseSettings)


def read_settings(cls: type[S]) -> S:
    """The settings of this process; exits with status 2 and one stderr line per wrong variable."""
    try:
        return cls()
    except ValidationError as error:
        for problem in error.errors():
            name = "SPINDLL_" + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"{name}: {problem['msg']}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error
