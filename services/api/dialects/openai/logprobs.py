"""The engine's token log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from protos import engine_pb2

_LOWEST = -9999.0  # JSON has no infinity; OpenAI uses the same number


def chat_logprobs(tokens: Iterable[engine_pb2.TokenLogprob]) -> dict[str, Any]:
    """`choices[].logprobs` of chat completions."""
    content = [{**_entry(t), "top_logprobs": [_entry(top) for top in t.top]} for t in tokens]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Sequence[engine_pb2.TokenLogprob], *, offset: int, unknown: int = 0
) -> dict[str, Any]:
    """`choices[].logprobs` of text completions, the first token starting at character `offset`.

    The first `unknown` tokens have nothing before them, hence no probability.
    """
    texts = [_text(token) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    known = [number >= unknown for number in range(len(tokens))]
    return {
        "tokens": texts,
        "token_logprobs": [
            _value(t.logprob) if is_known else None
            for t, is_known in zip(tokens, known, strict=True)
        ],
        "top_logprobs": [
            {_text(top): _value(top.logprob) for top in t.top} if is_known else None
            for t, is_known in zip(tokens, known, strict=True)
        ],
        "text_offset": offsets,
    }


def _entry(token: engine_pb2.TokenLogprob) -> dict[str, Any]:
    return {
        "token": _text(token),
        "logprob": _value(token.logprob),
        "bytes": list(token.text),
    }


def _text(token: engine_pb2.TokenLogprob) -> str:
    return token.text.decode(errors="replace")


def _value(logprob: float) -> float:
    # max() keeps its first argument when the second is NaN.
    return max(_LOWEST, logprob)
