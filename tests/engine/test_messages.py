"""The messages between front and runner survive encoding and decoding unchanged."""

from __future__ import annotations

import pytest

from services.engine.core import (
    CacheKey,
    CacheNotWritten,
    CacheRejected,
    CacheStored,
    CacheUsed,
    Constraint,
    Counters,
    FinishReason,
    Lane,
    LoadConfig,
    MemoryPolicy,
    ModelInfo,
    Sampling,
    Stopping,
    TextPiece,
    TokenLogprob,
)
from services.engine.messages import commands, reports
from services.engine.messages.commands import Command
from services.engine.messages.frames import HEADER, command_decoder, encode_frame, report_decoder
from services.engine.messages.reports import Report

LOGPROB = TokenLogprob(7, b"\xe4\xb8", -0.25, (TokenLogprob(7, b"\xe4\xb8", -0.25),))

COMMANDS: list[Command] = [
    commands.Start(LoadConfig(model_path="m.gguf", backend="llamacpp", context_length=4096)),
    commands.Submit(
        id=1 << 60,
        pieces=(TextPiece("<|user|>"), TextPiece("h\u00e9llo", literal=True)),
        add_special=True,
        sampling=Sampling(temperature=0.5, logit_bias={3: -100.0, 9: 2.5}, seed=-1),
        stopping=Stopping(max_tokens=5, strings=("\n\n", "END"), token_ids=(2,)),
        constraint=Constraint("json_schema", "{}"),
        n=2,
        top_logprobs=0,
        lane=Lane.BATCH,
        principal="alice",
        deadline_seconds=1.5,
        no_cache=True,
    ),
    commands.Submit(
        id=2,
        tokens=(1, 2, 3),
        sampling=Sampling(),
        stopping=Stopping(),
        thinking=commands.ThinkingBudget("<think>", "</think>", True, 0, True),
    ),
    commands.Submit(
        id=3,
        tokens=(1,),
        sampling=Sampling(),
        stopping=Stopping(),
        cache_keys=(CacheKey(b"i" * 16, bytes(range(32))),),
    ),
    commands.Submit(id=4, infill=("a", "b"), sampling=Sampling(), stopping=Stopping()),
    commands.Cancel((1, 2)),
    commands.Tokenize(3, (TextPiece("x"),)),
    commands.Detokenize(4, (1, 2)),
    commands.Stop(30.0),
]
REPORTS: list[Report] = [
    reports.Progress(0.5),
    reports.Ready(
        ModelInfo(
            architecture="qwen2",
            vocab_size=151_936,
            context_length=4096,
            trained_context_length=32_768,
            max_sequences=16,
            memory_policy=MemoryPolicy.WINDOW,
            gpu_layers=25,
            backend="llama.cpp 0.3.36",
            weights_bytes=1 << 40,
            kv_bytes=1,
            compute_bytes=2,
            pool_bytes={"host": 1, "cuda0": 2},
        )
    ),
    reports.LoadFailed("model_load_failed", "no"),
    reports.StepReport(
        [
            reports.Queued(1, 3),
            reports.Started(1, 100, 96),
            reports.Delta(1, 0, "\U0001f600", 2, (LOGPROB,)),
            reports.Finished(
                1, 0, FinishReason.LENGTH, 100, 96, 2, 0.1, 0.2, 0.3, 8, 5, "END", (LOGPROB,)
            ),
            reports.Finished(
                3, 0, FinishReason.STOP, 9, 8, 1, 0.1, 0.2, 0.3, stored_tokens=7, tier="ram"
            ),
            reports.Failed(2, {"code": "engine_busy", "message": "later", "details": {"a": 1}}),
        ]
    ),
    reports.Tokenized(3, (1, 2)),
    reports.Detokenized(4, "ab"),
    reports.Heartbeat(0.0, 1, 2, 3, Counters(steps=5, decode_seconds=1.5)),
    reports.CacheReport(
        [
            CacheStored("0f", b"\xff" * 16, "disk", "block", 1 << 30, 256, 0.5),
            CacheUsed("0f", "ram", 1 << 20, 0.5),
            CacheRejected("0e", "disk", "authentication"),
            CacheNotWritten("disk", "no space"),
        ]
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda message: type(message).__name__)
def test_a_command_is_decoded_as_it_was_encoded(command: Command) -> None:
    data = encode_frame(command)

    assert HEADER.unpack_from(data) == (len(data) - HEADER.size,)
    assert command_decoder.decode(data[HEADER.size :]) == command


@pytest.mark.parametrize("report", REPORTS, ids=lambda message: type(message).__name__)
def test_a_report_is_decoded_as_it_was_encoded(report: Report) -> None:
    assert report_decoder.decode(encode_frame(report)[HEADER.size :]) == report


def test_a_lane_that_goes_first_is_smaller() -> None:
    assert sorted(Lane) == [Lane.INTERACTIVE, Lane.BACKGROUND, Lane.BATCH]
