"""What is reported to the front of the events of a batcher."""

from __future__ import annotations

from services.engine.backends.fake import FakeBackend
from services.engine.core import Counters, LoadConfig, Sampling, Stopping, TextPiece
from services.engine.messages.commands import Submit
from services.engine.messages.reports import Delta, Finished, Started
from services.engine.runner.batcher import Begun, Ended, Written
from services.engine.runner.build import build_input_processor, build_step_batcher
from services.engine.runner.requests.output_processor import OutputProcessor


def test_the_times_of_a_request_are_those_of_its_steps() -> None:
    """The prompt is computed within the first step, so its time is that of the step, not zero."""
    config = LoadConfig(model_path="", backend="fake", context_length=512)
    input_processor = build_input_processor(build_step_batcher(FakeBackend(), config))
    submit = Submit(
        id=1,
        pieces=(TextPiece("prompt"),),
        sampling=Sampling(),
        stopping=Stopping(max_tokens=2, ignore_eos=True),
    )
    prepared = input_processor.prepare(submit, arrived_at=10.0)
    processor = OutputProcessor(Counters())
    processor.add(prepared)

    prepared.answers[0].write(ord("a"))
    processor.process([Begun(1, 0), Written(1, 0)], began_at=12.0, ended_at=15.0)
    prepared.answers[0].write(ord("b"))
    processor.process([Written(1, 0), Ended(1, 0)], began_at=15.0, ended_at=16.0)

    started, *deltas, finished = processor.take_events()
    assert started == Started(1, 6, 0)
    assert [delta.text for delta in deltas if isinstance(delta, Delta)] == ["a", "b"]
    assert isinstance(finished, Finished)
    assert (finished.queue_seconds, finished.prompt_seconds) == (2.0, 3.0)
    assert (finished.generate_seconds, finished.completion_tokens) == (1.0, 2)
