"""How one model is loaded and kept: from the engine's settings, `models.d/*.toml`, and the request.

    DATA/models.d/qwen.toml        any file name; one file per model
        model = "qwen3:0.6b"
        context_length = 32768
        keep_alive_seconds = -1
        pin = true

Later sources win, field by field. A file with an unknown field or a value out of range stops the
service at start, by file and field: a typing error in a setting must not be found by its users.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from services.engine.core import CacheType
from services.shared.errors import InvalidSettings
from services.shared.limits import (
    MAX_BATCH_TOKENS,
    MAX_CONTEXT_LENGTH,
    MAX_SEQUENCES,
    MAX_THREADS,
    MIN_BATCH_TOKENS,
)
from services.shared.store.manifest import Manifest
from services.shared.structs import resolved

Share = Annotated[float, msgspec.Meta(ge=0)]


@resolved
class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said about one model; None where nothing is."""

    context_length: Annotated[int, msgspec.Meta(ge=0, le=MAX_CONTEXT_LENGTH)] | None = (
        None  # 0: what fits
    )
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1, le=10_000)] | None = None  # -1: what fits
    tensor_split: Annotated[tuple[Share, ...], msgspec.Meta(max_length=16)] | None = None
    main_gpu: Annotated[int, msgspec.Meta(ge=0, le=15)] | None = None
    max_sequences: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQUENCES)] | None = None
    batch_tokens: Annotated[int, msgspec.Meta(ge=MIN_BATCH_TOKENS, le=MAX_BATCH_TOKENS)] | None = (
        None
    )
    threads: Annotated[int, msgspec.Meta(ge=0, le=MAX_THREADS)] | None = None
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    flash_attention: bool | None = None
    keep_alive_seconds: float | None = None  # negative: never unloaded for being idle
    pin: bool | None = None  # never evicted, never unloaded for being idle
    priority: Annotated[int, msgspec.Meta(ge=-10, le=10)] | None = None

    def over(self, base: ModelSettings) -> ModelSettings:
        """These settings, and where they say nothing, the base's."""
        said = {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}
        return msgspec.structs.replace(base, **said)

    def residency(self) -> ModelSettings:
        """Only the fields that a loaded model can change without being loaded again."""
        return ModelSettings(
            keep_alive_seconds=self.keep_alive_seconds, pin=self.pin, priority=self.priority
        )

    def loading(self) -> ModelSettings:
        """Only the fields that decide how it is loaded."""
        return msgspec.structs.replace(self, keep_alive_seconds=None, pin=None, priority=None)


def must_reload(loaded: ModelSettings, wanted: ModelSettings, *, context_length: int) -> bool:
    """Whether a model loaded with these settings (and so many cells) must load again for others.

    Fields that are not asked for do not matter, and a context larger than asked for is fine: else
    two clients with different wishes would have the model loaded over and over.
    """
    asked = msgspec.structs.asdict(wanted.loading())
    cells = asked.pop("context_length")
    differing = [k for k, v in asked.items() if v is not None and v != getattr(loaded, k)]
    return bool(differing) or (cells is not None and cells > context_length)


class SettingsBook:
    """All that is said about models: by Load calls, by their files, by the engine's settings.

    Load calls count for as long as the process lives. Files are by canonical name in lower case.
    """

    def __init__(self, base: ModelSettings, files: Mapping[str, ModelSettings]) -> None:
        self._base = base
        self._files = files
        self._chosen: dict[str, ModelSettings] = {}

    def choose(self, manifest: Manifest, settings: ModelSettings) -> None:
        """Remember what a Load call said; what earlier ones said stays, field by field."""
        before = self._chosen.get(manifest.digest, ModelSettings())
        self._chosen[manifest.digest] = settings.over(before)

    def of(self, manifest: Manifest) -> ModelSettings:
        """What counts for a model now."""
        said = self._files.get(manifest.name.casefold(), ModelSettings()).over(self._base)
        return self._chosen.get(manifest.digest, ModelSettings()).over(said)


@resolved
class _File(ModelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str


def read_model_settings(folder: Path) -> dict[str, ModelSettings]:
    """Every file of the folder, by the model name it is about. InvalidSettings names file and field."""
    found: dict[str, ModelSettings] = {}
    for path in sorted(folder.glob("*.toml")):
        file = _read(path)
        if file.model in found:
            raise InvalidSettings(f"models.d/{path.name}: {file.model} is in another file already")
        fields = msgspec.structs.asdict(file)
        del fields["model"]
        found[file.model] = ModelSettings(**fields)
    return found


def check(fields: Mapping[str, object]) -> ModelSettings:
    """Settings from a request. InvalidSettings names the field."""
    try:
        return msgspec.convert(dict(fields), ModelSettings)
    except msgspec.ValidationError as error:
        raise InvalidSettings(_sentence(error), param=_field(error)) from error


def _read(path: Path) -> _File:
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _File)
    except msgspec.ValidationError as error:
        raise InvalidSettings(f"models.d/{path.name}: {_sentence(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"models.d/{path.name}: not TOML: {error}") from error
    except OSError as error:
        raise InvalidSettings(f"models.d/{path.name}: not readable") from error


def _field(error: msgspec.ValidationError) -> str | None:
    """msgspec ends its sentence with "- at `$.field`"."""
    _, found, path = str(error).partition("`$.")
    return path.split("`")[0].split("[")[0] if found else None


def _sentence(error: msgspec.ValidationError) -> str:
    text = str(error).replace("Object contains unknown field", "there is no setting")
    field = _field(error)
    return f"{field}: {text.partition(' - at ')[0]}" if field else text
