"""The options that a model's author has set: the params of its manifest, by Ollama's names.

They apply where a request sets nothing, before the engine's own defaults. They come from
registries: a value of a wrong type or out of range is ignored, so that it does not break requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.engine.front.rpc.sampling_ranges import SAMPLING_RANGES


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """The valid params of a manifest."""

    sampling: Mapping[str, float | int]  # fields of core.Sampling
    stop: tuple[str, ...]
    max_tokens: int | None
    seed: int | None


def parse_model_defaults(params: Mapping[str, object]) -> ModelDefaults:
    """Parse the params of a manifest."""
    sampling = {
        name: value
        for name in SAMPLING_RANGES
        if (value := _parse_number(params.get(name), name)) is not None
    }
    seed = _parse_integer(params.get("seed"))
    num_predict = _parse_integer(params.get("num_predict"))
    return ModelDefaults(
        sampling=sampling,
        stop=_parse_strings(params.get("stop")),
        # Ollama's -1 and -2 mean "until the context is full", as None does.
        max_tokens=num_predict if num_predict is not None and num_predict > 0 else None,
        seed=seed if seed is not None and seed >= 0 else None,
    )


def _parse_number(value: object, name: str) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    allowed = SAMPLING_RANGES[name]
    if allowed.is_integer and int(value) != value:
        return None
    # Ollama's -1 for repeat_last_n is the whole context.
    if name == "repeat_last_n" and value == -1:
        return int(allowed.high)
    if not allowed.contains(value):
        return None
    return int(value) if allowed.is_integer else float(value)


def _parse_integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _parse_strings(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        return ()
    return tuple(text for text in values if isinstance(text, str) and text)
