"""Greedy requests of Alice, whose answers can be compared with those of prompts computed whole."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from services.engine.core import Sampling, Stopping
from services.engine.messages.commands import Submit
from tests.contracts.batching import BatchRun
from tests.contracts.storing import ALICE
from tests.contracts.test_batcher import TOP
from tests.engine.runner.child_runner import Answered, submit

TOKENS = 8
_ids = itertools.count(1)


def ask_greedily(text: str = "", **changes: Any) -> Submit:
    """A request for exactly TOKENS tokens with their probabilities."""
    options: dict[str, Any] = {
        "sampling": Sampling(temperature=0.0),
        "stopping": Stopping(max_tokens=TOKENS, ignore_eos=True),
        "top_logprobs": TOP,
        "realm": "alice",
        "cache_keys": ALICE,
    }
    return submit(next(_ids), text, **options | changes)


def answer_alone(run: BatchRun, asked: Submit) -> Answered:
    """The answer to a request whose whole prompt is computed."""
    answered = run.answer(msgspec.structs.replace(asked, no_cache=True))[0]
    assert answered.finished[0].cached_tokens == 0
    return answered
