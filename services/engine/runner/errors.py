"""The errors that more than one part of a runner raises."""

from __future__ import annotations

from services.shared.errors import ContextLengthExceeded, EngineUnavailable


def build_too_long_error(prompt_tokens: int, context: int) -> ContextLengthExceeded:
    """Build the error for a prompt that leaves no room for an answer.

    The engine does not know the field that the prompt came in; the api names it.
    """
    return ContextLengthExceeded(
        # "maximum context length": the words that clients look for, to shorten a conversation.
        f"This model's maximum context length is {context} tokens, but the prompt has "
        f"{prompt_tokens} tokens, and there must be room for an answer",
        details={"prompt_tokens": prompt_tokens, "context_length": context},
    )


def build_no_room_error() -> ContextLengthExceeded:
    """Build the error for a request that does not fit into memory even alone."""
    return ContextLengthExceeded("prompt and answer no longer fit the context")


def build_unloading_error() -> EngineUnavailable:
    """Build the error for requests that come, or are not finished, when the model is unloaded."""
    return EngineUnavailable("the model is being unloaded, try again")
