"""What the front tells the api of a request."""

from __future__ import annotations

from services.engine.core import FinishReason
from services.engine.front.rpc.to_proto import build_frame
from services.engine.messages import reports


def test_the_end_of_an_answer_reports_what_was_stored_of_its_prompt() -> None:
    end = reports.Finished(
        1,
        0,
        FinishReason.STOP,
        prompt_tokens=900,
        cached_tokens=800,
        completion_tokens=3,
        queue_seconds=0.0,
        prompt_seconds=0.1,
        generate_seconds=0.2,
        stored_tokens=768,
        tier="disk",
        saved_seconds=2.5,
        disk_tokens=512,
    )
    events = build_frame([(1, reports.Started(1, 900, 800, 768, True, 512)), (1, end)]).events

    begun = events[0].started
    assert (begun.stored_tokens, begun.uses_cuts, begun.disk_tokens) == (768, True, 512)
    finished = events[1].finished
    assert (finished.stored_tokens, finished.tier, finished.saved_seconds) == (768, "disk", 2.5)
    assert finished.disk_tokens == 512
