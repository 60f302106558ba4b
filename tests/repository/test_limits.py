"""What the api accepts, the engine accepts: their limits are the same."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from protos import engine_pb2
from services.api.access.keys import Role
from services.api.access.principal import Principal
from services.api.admin.models_schema import LoadOptions
from services.api.dialects.openai.schemas.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.to_request import chat_to_request
from services.api.generation.requests.to_engine import build_submit
from services.engine.front.cache_index.prompt_cache import PromptCache
from services.engine.front.models.planning.model_settings import (
    ModelSettings,
    validate_model_settings,
)
from services.engine.front.rpc.from_proto import parse_model_settings, parse_submit
from services.engine.front.rpc.model_defaults import parse_model_defaults
from services.engine.front.rpc.sampling_ranges import SAMPLING_RANGES
from services.shared.errors import InvalidSettings
from services.shared.limits import CacheType, KvMode

# By field: the smallest and the largest value, and values out of range.
LOAD_LIMITS: dict[str, tuple[list[Any], list[Any]]] = {
    "context_length": ([0, 1 << 24], [-1, (1 << 24) + 1]),
    "gpu_layers": ([-1, 10_000], [-2, 10_001]),
    "tensor_split": ([[1.0] * 16], [[1.0] * 17, [-0.5]]),
    "main_gpu": ([0, 15], [-1, 16]),
    "max_sequences": ([1, 256], [0, 257]),
    "batch_tokens": ([32, 1 << 16], [31, (1 << 16) + 1]),
    "threads": ([0, 1024], [-1, 1025]),
    "priority": ([-10, 10], [-11, 11]),
    "cache_type_k": (list(get_args(CacheType)), ["f17"]),
    "cache_type_v": (list(get_args(CacheType)), ["f17"]),
    "kv_mode": (list(get_args(KvMode)), ["shared"]),
}
WITHOUT_LIMITS = {"flash_attention", "keep_alive_seconds", "pin"}
REQUEST_LIMITS: dict[str, tuple[list[Any], list[Any]]] = {
    "n": ([1, 64], [0, 65]),
    "stop": ([["a"] * 64], [["a"] * 65]),
    "timeout": ([0.001, 1e9], [0, 1.1e9]),
    "top_logprobs": ([0, 20], [-1, 21]),
    "logit_bias": ([{"5": -100}, {"5": 100}], [{"5": -101}, {"5": 101}]),
    "temperature": ([0, 100], [-0.1, 100.1]),
    "top_k": ([-1, 1 << 30], [-2, (1 << 30) + 1]),
    "top_p": ([0, 1], [-0.1, 1.1]),
    "min_p": ([0, 1], [-0.1, 1.1]),
    "typical_p": ([0, 1], [-0.1, 1.1]),
    "repeat_penalty": ([1 / 128, 100], [0.007, 100.1]),
    "repeat_last_n": ([-1, 0, 1 << 20], [-2, (1 << 20) + 1]),
    "presence_penalty": ([-2, 2], [-2.1, 2.1]),
    "frequency_penalty": ([-2, 2], [-2.1, 2.1]),
    "dry_multiplier": ([0, 100], [-0.1, 100.1]),
    "dry_base": ([1, 100], [0.9, 100.1]),
    "dry_allowed_length": ([1, 1 << 20], [0, (1 << 20) + 1]),
    "xtc_probability": ([0, 1], [-0.1, 1.1]),
    "xtc_threshold": ([0, 1], [-0.1, 1.1]),
}


@pytest.mark.parametrize("field", LOAD_LIMITS)
def test_the_api_and_the_engine_have_one_range_for_a_load_setting(field: str) -> None:
    accepted, refused = LOAD_LIMITS[field]

    for value in accepted:
        parse_model_settings(LoadOptions.model_validate({field: value}).to_proto())
    for value in refused:
        with pytest.raises(ValidationError) as api_error:
            LoadOptions.model_validate({field: value})
        with pytest.raises(InvalidSettings) as engine_error:
            validate_model_settings({field: value})
        assert (api_error.value.errors()[0]["loc"][0], engine_error.value.param) == (field, field)


@pytest.mark.parametrize("field", REQUEST_LIMITS)
def test_the_engine_accepts_every_value_that_a_chat_may_have(field: str) -> None:
    accepted, refused = REQUEST_LIMITS[field]

    for value in accepted:
        parse_submit(
            chat_submit({field: value}), parse_model_defaults({}), PromptCache().open_realm
        )
    for value in refused:
        with pytest.raises(ValidationError) as error:
            chat_submit({field: value})
        assert error.value.errors()[0]["loc"][0] == field


def test_the_tables_have_every_field_with_a_limit() -> None:
    assert set(LOAD_LIMITS) == set(ModelSettings.__struct_fields__) - WITHOUT_LIMITS
    assert set(REQUEST_LIMITS) >= set(SAMPLING_RANGES)


def chat_submit(changes: dict[str, Any]) -> engine_pb2.Submit:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "logprobs": True}
    principal = Principal(id="key", role=Role.USER, name="key")
    request = chat_to_request(ChatCompletionRequest.model_validate(body | changes), "t", principal)
    prompt = engine_pb2.PromptText(pieces=[engine_pb2.TextPiece(text="hi")])
    return build_submit(request, [prompt], model="m:latest", tenant="")
