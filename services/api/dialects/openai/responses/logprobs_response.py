"""Token log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from services.api.generation.answers.events import TokenLogprob

_MIN_LOGPROB = -9999.0  # JSON has no infinity; OpenAI uses the same number


def build_chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """`choices[].logprobs` of chat completions."""
    content = [
        {**_build_entry(t), "top_logprobs": [_build_entry(top) for top in t.top]} for t in tokens
    ]
    return {"content": content, "refusal": None}


def build_completion_logprobs(
    tokens: Sequence[TokenLogprob], *, offset: int, unknown_count: int = 0
) -> dict[str, Any]:
    """`choices[].logprobs` of text completions; the first token starts at character `offset`.

    The first `unknown_count` tokens have no token before them, hence no probability.
    """
    texts = [_decode_text(token) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    known = [number >= unknown_count for number in range(len(tokens))]
    return {
        "tokens": texts,
        "token_logprobs": [
            clamp_logprob(t.logprob) if is_known else None
            for t, is_known in zip(tokens, known, strict=True)
        ],
        "top_logprobs": [
            {_decode_text(top): clamp_logprob(top.logprob) for top in t.top} if is_known else None
            for t, is_known in zip(tokens, known, strict=True)
        ],
        "text_offset": offsets,
    }


def clamp_logprob(logprob: float) -> float:
    """The number itself, or the least that JSON shows instead of minus infinity and NaN."""
    # max() keeps its first argument when the second is NaN.
    return max(_MIN_LOGPROB, logprob)


def _build_entry(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": _decode_text(token),
        "logprob": clamp_logprob(token.logprob),
        "bytes": list(token.text),
    }


def _decode_text(token: TokenLogprob) -> str:
    return token.text.decode(errors="replace")
