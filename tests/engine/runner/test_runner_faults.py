"""Faults around a runner lead to an error report, or to an exit that the front can see."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from services.engine.core import FinishReason, Stopping
from services.engine.messages import reports
from services.engine.messages.frames import HEADER
from tests.engine.runner.child_runner import (
    TINY,
    ChildRunner,
    config,
    fake_config,
    submit,
    write_behaviour,
)

ENDLESS = Stopping(max_tokens=100_000, ignore_eos=True)


# ---- loads that fail


def write_damaged_model(folder: Path, damage: str) -> Path:
    data = TINY.read_bytes()
    made = folder / "model.gguf"
    match damage:
        case "truncated":
            made.write_bytes(data[: len(data) // 2])
        case "truncated in its header":
            made.write_bytes(data[:3000])
        case "empty":
            made.write_bytes(b"")
        case "of another kind":
            made.write_bytes(b"PK\x03\x04" + data[4:])
        case "of an unknown architecture":
            made.write_bytes(data.replace(b"llama", b"lambd"))
        case "of a future version":
            made.write_bytes(data[:4] + b"\x63\x00\x00\x00" + data[8:])
        case "missing":
            pass
    return made


@pytest.mark.parametrize(
    ("damage", "expected_text"),
    [
        ("truncated", "truncated"),
        ("truncated in its header", "truncated"),
        ("empty", "truncated"),
        ("of another kind", "not a GGUF"),
        ("of an unknown architecture", "architecture 'lambd'"),
        ("of a future version", "GGUF version 99"),
        ("missing", "cannot be opened"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--estimate",)], ids=["load", "dry run"])
def test_a_failed_load_reports_the_reason(
    tmp_path: Path, damage: str, expected_text: str, arguments: tuple[str, ...]
) -> None:
    with ChildRunner(config(write_damaged_model(tmp_path, damage)), *arguments) as runner:
        failed = runner.wait_for_first(reports.LoadFailed)
        status = runner.process.wait(30)

    assert failed.code == "model_load_failed"
    assert expected_text in failed.message
    assert str(tmp_path) not in failed.message
    assert status == 1


def test_a_vocabulary_without_weights_fails_to_load(tmp_path: Path) -> None:
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    writer = GGUFWriter(str(tmp_path / "vocab.gguf"), "llama")
    for key, field in GGUFReader(TINY).fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind is GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=sub)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    with ChildRunner(config(tmp_path / "vocab.gguf")) as runner:
        assert "lacks weights" in runner.wait_for_first(reports.LoadFailed).message


# ---- steps that fail


def test_a_failed_step_fails_its_requests_and_no_others(tmp_path: Path) -> None:
    # Slow steps: the third step must begin after both requests have arrived.
    with ChildRunner(
        fake_config(write_behaviour(tmp_path, fail_at_step=3, step_seconds=0.2))
    ) as runner:
        failed = [submit(1, "one", stopping=ENDLESS), submit(2, "two", stopping=ENDLESS)]
        for request in failed:
            runner.send(request)
        codes = [runner.wait_for_answer(request.id).error_code for request in failed]
        later = runner.complete(submit(3, "three"))

    assert codes == ["internal_error", "internal_error"]
    assert later.failed is None
    assert later.text[0]


def test_three_failed_steps_in_a_row_end_the_runner(tmp_path: Path) -> None:
    with ChildRunner(fake_config(write_behaviour(tmp_path, fail_from_step=1))) as runner:
        for id_ in range(3):
            assert runner.complete(submit(id_, "x")).error_code == "internal_error"

        assert runner.process.wait(30) == 1


def test_logits_that_are_not_finite_fail_one_request(tmp_path: Path) -> None:
    with ChildRunner(fake_config(write_behaviour(tmp_path, nan_at_step=1))) as runner:
        broken = runner.complete(submit(1, "x"))
        after = runner.complete(submit(2, "x"))

    assert broken.error_code == "internal_error"
    assert "no valid numbers" in str(broken.failed)
    assert after.reason in (FinishReason.STOP, FinishReason.LENGTH)


def test_an_abort_in_the_backend_closes_the_connection(tmp_path: Path) -> None:
    with ChildRunner(fake_config(write_behaviour(tmp_path, abort_at_step=4))) as runner:
        runner.send(submit(1, "x", stopping=ENDLESS))
        runner.wait_until(lambda: runner.has_ended)

        assert runner.process.wait(30) == -signal.SIGABRT


def test_a_killed_runner_closes_the_connection() -> None:
    with ChildRunner(config()) as runner:
        runner.send(submit(1, "x", stopping=ENDLESS))
        runner.wait_until(lambda: 1 in runner.answered and runner.answered[1].deltas)
        os.kill(runner.process.pid, signal.SIGKILL)
        runner.wait_until(lambda: runner.has_ended)

        assert runner.process.wait(30) == -signal.SIGKILL


def test_heartbeats_report_a_stuck_backend(tmp_path: Path) -> None:
    with ChildRunner(fake_config(write_behaviour(tmp_path, hang_at_step=2))) as runner:
        runner.send(submit(1, "x"))
        runner.wait_until(
            lambda: any(
                isinstance(r, reports.Heartbeat) and r.busy_seconds > 1.0 for r in runner.reports
            )
        )


# ---- ends


def test_a_runner_exits_when_the_front_is_gone() -> None:
    runner = ChildRunner(fake_config())
    runner.wait_for_first(reports.Ready)
    runner.send(submit(1, "x", stopping=ENDLESS))

    assert runner.close() == 0


def test_a_runner_exits_when_the_front_is_gone_even_during_a_backend_call(
    tmp_path: Path,
) -> None:
    runner = ChildRunner(fake_config(write_behaviour(tmp_path, hang_at_step=1)))
    runner.wait_for_first(reports.Ready)
    runner.send(submit(1, "x"))
    runner.wait_until(
        lambda: any(
            isinstance(r, reports.Heartbeat) and r.busy_seconds > 0.0 for r in runner.reports
        )
    )

    assert runner.close() == 0


def test_an_invalid_frame_ends_the_runner() -> None:
    with ChildRunner(fake_config()) as runner:
        runner.wait_for_first(reports.Ready)
        runner.send_bytes(HEADER.pack(3) + b"\xc1\xc1\xc1")

        assert runner.process.wait(30) == 0


def test_a_checkpoint_that_is_refused_costs_a_computation_and_nothing_else(tmp_path: Path) -> None:
    behaviours = [
        write_behaviour(tmp_path, memory_policy="recurrent"),
        write_behaviour(tmp_path / "refusing", memory_policy="recurrent", refuses_load=True),
    ]
    answers = []
    for behaviour in behaviours:
        with ChildRunner(fake_config(behaviour)) as runner:
            first = runner.complete(submit(1, "a prompt of more than sixty-four tokens. " * 4))
            again = runner.complete(submit(2, "a prompt of more than sixty-four tokens. " * 4))
        assert first.text == again.text
        answers.append(again)

    kept, refused = answers
    assert refused.text == kept.text
    assert kept.finished[0].cached_tokens > 0
    assert refused.finished[0].cached_tokens == 0
    assert refused.started is not None
    assert refused.started.cached_tokens == 0


def test_a_hang_outside_of_the_computation_is_reported_as_busy(tmp_path: Path) -> None:
    behaviour = write_behaviour(tmp_path, share_seconds=60.0)
    with ChildRunner(fake_config(behaviour)) as runner:
        runner.complete(submit(1, "a prompt that two requests share, the first"))
        runner.send(submit(2, "a prompt that two requests share, the second"))

        while runner.next_heartbeat().busy_seconds == 0.0:
            pass  # the test's own time limit ends this
