"""Texts that bodies may also give as token ids."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]  # strict: true is not token 1


def wrap_single(value: object) -> object:
    """Inputs as a list: a single text, or a single list of token ids, becomes a list of one."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
        return [value]
    return value
