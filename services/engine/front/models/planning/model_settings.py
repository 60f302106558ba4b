"""How one model is loaded and kept: its settings, from the engine's, `models.d/*.toml` and Load.

    DATA/models.d/qwen.toml        any file name; one file for each model
        model = "qwen3:0.6b"
        context_length = 32768
        keep_alive_seconds = -1
        pin = true

The sources in order: the engine's settings, the model's file, the Load calls. Later sources win,
field by field. A file with an unknown field or a value out of range stops the service at its start,
and the error names the file and the field: an operator must not find a typing error later, by its
effects.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from services.engine.core import Device, LoadConfig
from services.shared.errors import InvalidSettings
from services.shared.limits import (
    MAX_BATCH_TOKENS,
    MAX_CONTEXT_LENGTH,
    MAX_DEVICES,
    MAX_GPU_LAYERS,
    MAX_PRIORITY,
    MAX_SEQUENCES,
    MAX_THREADS,
    MIN_BATCH_TOKENS,
    QUANTIZED_CACHE_TYPES,
    CacheType,
    KvMode,
)
from services.shared.store.manifest import Manifest
from services.shared.structs import resolved

Share = Annotated[float, msgspec.Meta(ge=0)]


@resolved
class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one model; None where a source does not set the field."""

    # 0: the largest that fits
    context_length: Annotated[int, msgspec.Meta(ge=0, le=MAX_CONTEXT_LENGTH)] | None = None
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1, le=MAX_GPU_LAYERS)] | None = (
        None  # -1: all that fit
    )
    tensor_split: Annotated[tuple[Share, ...], msgspec.Meta(max_length=MAX_DEVICES)] | None = None
    main_gpu: Annotated[int, msgspec.Meta(ge=0, lt=MAX_DEVICES)] | None = None
    max_sequences: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQUENCES)] | None = None
    batch_tokens: Annotated[int, msgspec.Meta(ge=MIN_BATCH_TOKENS, le=MAX_BATCH_TOKENS)] | None = (
        None
    )
    threads: Annotated[int, msgspec.Meta(ge=0, le=MAX_THREADS)] | None = None
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    kv_mode: KvMode | None = None
    flash_attention: bool | None = None
    keep_alive_seconds: float | None = None  # negative: never unloaded for being idle
    pin: bool | None = None  # never evicted, never unloaded for being idle
    priority: Annotated[int, msgspec.Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None

    def with_fallback(self, base: ModelSettings) -> ModelSettings:
        """These settings, with the fields of `base` where these are None."""
        chosen = {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}
        return msgspec.structs.replace(base, **chosen)

    def runtime_fields(self) -> ModelSettings:
        """Only the fields that change without loading the model again."""
        return ModelSettings(
            keep_alive_seconds=self.keep_alive_seconds, pin=self.pin, priority=self.priority
        )

    def load_fields(self) -> ModelSettings:
        """Only the fields that decide how the model is loaded."""
        return msgspec.structs.replace(self, keep_alive_seconds=None, pin=None, priority=None)


def validate_load(settings: ModelSettings, devices: Sequence[Device]) -> None:
    """Check settings with all fallbacks together, and against the devices of the machine.

    InvalidSettings names the field. Without devices, the settings of devices have no effect.
    """
    if settings.flash_attention is False and settings.cache_type_v in QUANTIZED_CACHE_TYPES:
        raise InvalidSettings("a quantised type needs flash attention", param="cache_type_v")
    if math.isnan(settings.keep_alive_seconds or 0.0):
        raise InvalidSettings("must be a number", param="keep_alive_seconds")
    split = settings.tensor_split
    if split and not math.isfinite(sum(split)):
        raise InvalidSettings("shares must be finite", param="tensor_split")
    if split and not sum(split):
        raise InvalidSettings("at least one share must be above 0", param="tensor_split")
    if devices and split and len(split) > len(devices):
        reason = f"{len(split)} shares, but llama.cpp can use {len(devices)} GPUs"
        raise InvalidSettings(reason, param="tensor_split")
    if devices and settings.main_gpu is not None and settings.main_gpu >= len(devices):
        reason = f"there is no GPU {settings.main_gpu}: llama.cpp can use {len(devices)}, from 0"
        raise InvalidSettings(reason, param="main_gpu")


def requires_reload(
    loaded: ModelSettings, requested: ModelSettings, config: LoadConfig | None
) -> bool:
    """Whether a model loaded with these settings, as this config, must be loaded again for others.

    Fields that are not requested do not matter, nor do those that ask for what is loaded already,
    and a context larger than the requested one is fine, as is one that was asked for and became
    shorter: no model gets more than it was trained for. Otherwise two clients with different
    settings would load the model over and over. `config`: None while the load is being planned.
    """
    fields = msgspec.structs.asdict(requested.load_fields())
    cells, most_cells = fields.pop("context_length"), loaded.context_length or 0
    actual: dict[str, object] = {}
    if config is not None:
        actual = {**msgspec.structs.asdict(config), "main_gpu": _find_main_gpu(config)}
        most_cells = max(most_cells, config.context_length)
    differing = [
        k
        for k, v in fields.items()
        if v is not None and v not in (getattr(loaded, k), actual.get(k))
    ]
    return bool(differing) or (cells is not None and cells > most_cells)


class ModelSettingsRegistry:
    """The settings of all models, from all sources, for a machine with these devices.

    `files` is by canonical model name in lower case. The settings of Load calls apply until the
    process ends.
    """

    def __init__(
        self,
        base: ModelSettings,
        files: Mapping[str, ModelSettings],
        devices: Sequence[Device] = (),
    ) -> None:
        self._base = base
        self._files = files
        self._devices = devices
        self._overrides: dict[str, ModelSettings] = {}  # from Load calls, by digest

    def override(self, manifest: Manifest, settings: ModelSettings) -> None:
        """Add the settings of a Load call; fields that it does not set keep their overrides.

        InvalidSettings: see `validate_load`.
        """
        self.resolve(manifest, settings)
        before = self._overrides.get(manifest.digest, ModelSettings())
        self._overrides[manifest.digest] = settings.with_fallback(before)

    def resolve(self, manifest: Manifest, requested: ModelSettings) -> ModelSettings:
        """The settings that would apply to a model after such a Load call. InvalidSettings."""
        settings = requested.with_fallback(self.get(manifest))
        validate_load(settings, self._devices)
        return settings

    def get(self, manifest: Manifest) -> ModelSettings:
        """The settings that apply to a model now."""
        file = self._files.get(manifest.name.casefold(), ModelSettings())
        override = self._overrides.get(manifest.digest, ModelSettings())
        return override.with_fallback(file.with_fallback(self._base))


@resolved
class _File(ModelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str


def read_model_settings(
    folder: Path, base: ModelSettings | None = None, devices: Sequence[Device] = ()
) -> dict[str, ModelSettings]:
    """Read every file of the folder; the settings by the model name in the file.

    `base` has the engine's settings that the files extend. InvalidSettings names the file and the
    field.
    """
    found: dict[str, ModelSettings] = {}
    for path in sorted(folder.glob("*.toml")):
        file = _read(path)
        if file.model in found:
            raise InvalidSettings(f"models.d/{path.name}: {file.model} is in another file already")
        fields = msgspec.structs.asdict(file)
        del fields["model"]
        found[file.model] = settings = ModelSettings(**fields)
        try:
            validate_load(settings.with_fallback(base or ModelSettings()), devices)
        except InvalidSettings as error:
            message = f"models.d/{path.name}: {error.param}: {error.message}"
            raise InvalidSettings(message) from error
    return found


def validate_model_settings(fields: Mapping[str, object]) -> ModelSettings:
    """Build settings from the fields of a request. InvalidSettings names the field."""
    try:
        return msgspec.convert(dict(fields), ModelSettings)
    except msgspec.ValidationError as error:
        raise InvalidSettings(_describe(error), param=_find_field(error)) from error


def _find_main_gpu(config: LoadConfig) -> int | None:
    """The number of the one device that a model is on."""
    number = re.fullmatch(r"[a-z]+(\d+)", config.devices[0]) if len(config.devices) == 1 else None
    return int(number[1]) if number else None


def _read(path: Path) -> _File:
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _File)
    except msgspec.ValidationError as error:
        raise InvalidSettings(f"models.d/{path.name}: {_describe(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"models.d/{path.name}: not TOML: {error}") from error
    except OSError as error:
        raise InvalidSettings(f"models.d/{path.name}: not readable") from error


def _find_field(error: msgspec.ValidationError) -> str | None:
    """The field in msgspec's sentence, which ends with "- at `$.field`"."""
    _, found, path = str(error).partition("`$.")
    return path.split("`")[0].split("[")[0] if found else None


def _describe(error: msgspec.ValidationError) -> str:
    text = str(error).replace("Object contains unknown field", "there is no setting")
    field = _find_field(error)
    return f"{field}: {text.partition(' - at ')[0]}" if field else text
