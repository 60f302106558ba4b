"""The documented fields that are not honoured: refused by name, or without effect on purpose.

A field that would change the answer is refused, so that no client relies on it; its neutral
values and null are accepted, because clients send their defaults. A field that can only change
speed, price or records has no effect. All other fields of the schemas are honoured. A test compares
this with docs/reference/openai.md and with the fields of the official client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo

from services.api.request_body import RequestBody

NO_EFFECT: Mapping[str, str] = {
    "dynatemp_exponent": "has none while dynatemp_range is 0",
    "id_slot": "the engine chooses the sequence that shares the longest prefix",
    "metadata": "nothing is stored",
    "mirostat_eta": "has none while mirostat is 0",
    "mirostat_tau": "has none while mirostat is 0",
    "prediction": "would only make the answer faster",
    "prompt_cache_key": "prompts are found by their text",
    "prompt_cache_options": "prompts are found by their text",
    "prompt_cache_retention": "prompts stay as long as there is memory",
    "return_progress": "comments of the stream report the place in the queue",
    "safety_identifier": "the API key is the principal",
    "service_tier": "there is one tier; see lane",
    "store": "nothing is stored",
    "timings_per_token": "timings are in the last chunk",
    "user": "the API key is the principal",
    "verbosity": "no model here is trained for it",
}

_REFUSED = "x-refused"


def _refuse(*neutral: object) -> AfterValidator:
    def check(value: object, info: ValidationInfo) -> None:
        if value is not None and value not in neutral:
            raise ValueError(f"is not supported: {_REASONS[info.field_name or '']}")

    return AfterValidator(check)


def _because(reason: str) -> Any:
    return Field(default=None, description=reason, json_schema_extra={_REFUSED: True})


def list_refused(body: type[RequestBody]) -> dict[str, str]:
    """The refused fields of a body, and why."""
    return {
        name: field.description or ""
        for name, field in body.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and _REFUSED in field.json_schema_extra
    }


class RefusedFields(RequestBody):
    """Fields of chats and text completions that are refused unless they are null or neutral."""

    dry_penalty_last_n: Annotated[Any, _refuse(-1)] = _because("DRY looks at repeat_last_n tokens")
    dry_sequence_breakers: Annotated[Any, _refuse([])] = _because("DRY has no sequence breakers")
    dynatemp_range: Annotated[Any, _refuse(0)] = _because("there is no dynamic temperature")
    guided_choice: Annotated[Any, _refuse()] = _because("use guided_regex")
    guided_grammar: Annotated[Any, _refuse()] = _because("use grammar, in GBNF")
    include_stop_str_in_output: Annotated[Any, _refuse(False)] = _because(
        "an answer ends before its stop string"
    )
    mirostat: Annotated[Any, _refuse(0)] = _because("there is no Mirostat")
    num_ctx: Annotated[Any, _refuse()] = _because("a model is loaded with its context length")
    options: Annotated[Any, _refuse({})] = _because("these are Ollama's; use OpenAI's fields")
    prompt_logprobs: Annotated[Any, _refuse(False)] = _because(
        "use echo and logprobs of /v1/completions"
    )
    samplers: Annotated[Any, _refuse([], "")] = _because("their order is fixed")
    structured_outputs: Annotated[Any, _refuse({})] = _because("use response_format")
    top_n_sigma: Annotated[Any, _refuse(-1, 0)] = _because("there is no top-n-sigma")


class RefusedChatFields(RefusedFields):
    """Those of chats alone."""

    audio: Annotated[Any, _refuse()] = _because("answers are text")
    moderation: Annotated[Any, _refuse()] = _because("nothing here moderates")
    modalities: Annotated[Any, _refuse(["text"])] = _because("answers are text")
    web_search_options: Annotated[Any, _refuse()] = _because("nothing here searches the web")


class RefusedCompletionFields(RefusedFields):
    """Those of text completions alone."""

    thinking_budget_tokens: Annotated[Any, _refuse(-1)] = _because("only a chat thinks apart")


class RefusedRerankFields(RequestBody):
    """Those of requests to rank."""

    max_chunks_per_doc: Annotated[Any, _refuse()] = _because("there are no chunks")
    max_tokens_per_doc: Annotated[Any, _refuse()] = _because("the model sets it")
    rank_fields: Annotated[Any, _refuse()] = _because("documents are texts")


class RefusedTokenizeFields(RequestBody):
    """Those of texts to tokenize."""

    with_pieces: Annotated[Any, _refuse(False)] = _because("tokens have no texts of their own")


_REASONS = {
    name: reason
    for body in (
        RefusedChatFields,
        RefusedCompletionFields,
        RefusedRerankFields,
        RefusedTokenizeFields,
    )
    for name, reason in list_refused(body).items()
}
