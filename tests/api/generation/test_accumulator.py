"""What the answers of a request that is not streamed may take."""

from __future__ import annotations

import pytest

from services.api.clients.generation_stream import MAX_LOGPROBS
from services.api.generation.answers.accumulator import Accumulator
from services.api.generation.answers.events import TextDelta, TokenLogprob
from services.shared.errors import InvalidRequest


def test_too_many_log_probabilities_of_all_answers_are_refused() -> None:
    entry = TokenLogprob(b"a", -1.0, top=tuple(TokenLogprob(b"b", -2.0) for _ in range(15)))
    accumulator = Accumulator(2)
    half = [TextDelta(index, "a", (entry,) * (MAX_LOGPROBS // 32)) for index in (0, 1)]
    accumulator.add(half)

    with pytest.raises(InvalidRequest, match="log-probabilities"):
        accumulator.add([TextDelta(0, "a", (entry,))])
