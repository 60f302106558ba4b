"""What a model's author set as its options (the manifest's params, by Ollama's names).

They stand between what a request says and the engine's own defaults. They come from registries:
what has a wrong type or makes no sense is passed over, it must not break the requests of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.engine.front.rpc.sampling_ranges import SAMPLING

_NAMES = {name: name for name in SAMPLING if name != "seed"}


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """The usable part of a manifest's params."""

    sampling: Mapping[str, float | int]  # fields of core.Sampling
    stop: tuple[str, ...]
    max_tokens: int | None
    seed: int | None


def model_defaults(params: Mapping[str, object]) -> ModelDefaults:
    """Read the params of a manifest."""
    sampling = {
        name: value for name in _NAMES if (value := _number(params.get(name), name)) is not None
    }
    seed = _whole(params.get("seed"))
    predict = _whole(params.get("num_predict"))
    return ModelDefaults(
        sampling=sampling,
        stop=_strings(params.get("stop")),
        # Ollama's -1 and -2 mean "until the context is full", as None does.
        max_tokens=predict if predict is not None and predict > 0 else None,
        seed=seed if seed is not None and seed >= 0 else None,
    )


def _number(value: object, name: str) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    bounds = SAMPLING[name]
    if bounds.is_whole and int(value) != value:
        return None
    # Ollama's -1 for repeat_last_n is the whole context.
    if name == "repeat_last_n" and value == -1:
        return int(bounds.high)
    if not bounds.allow(value):
        return None
    return int(value) if bounds.is_whole else float(value)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _strings(value: object) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple):
        return ()
    return tuple(text for text in listed if isinstance(text, str) and text)
