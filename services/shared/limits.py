"""Limits that more than one service enforces: what the api refuses, the engine refuses too."""

from __future__ import annotations

MAX_ANSWERS = 64  # of one request: OpenAI's `n`
