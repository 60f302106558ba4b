"""Faults around a runner lead to an error report, or to an exit that the front can see."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest

from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import FinishReason, Lane, Stopping, TextPiece
from services.engine.messages import commands, reports
from services.engine.messages.frames import HEADER
from tests.engine.runner.child_runner import TINY, ChildRunner, config, fake_config, submit

ENDLESS = Stopping(max_tokens=100_000, ignore_eos=True)


def write_behaviour(folder: Path, **behaviour: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "behaviour.json"
    path.write_bytes(msgspec.json.encode(Behaviour(**behaviour)))  # type: ignore[arg-type]
    return path


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


def test_stopping_lets_running_answers_finish_and_refuses_new_ones() -> None:
    with ChildRunner(fake_config(context_length=65_536)) as runner:
        runner.wait_for_first(reports.Ready)
        runner.send(submit(1, "x", stopping=Stopping(max_tokens=3000, ignore_eos=True)))
        runner.send(commands.Stop(drain_seconds=60.0))
        runner.send(submit(2, "y"))
        running, refused = runner.wait_for_answer(1), runner.wait_for_answer(2)
        status = runner.process.wait(30)

    assert running.finished[0].completion_tokens == 3000
    assert refused.error_code == "engine_unavailable"
    assert status == 0


def test_stopping_without_drain_time_fails_running_requests() -> None:
    with ChildRunner(fake_config()) as runner:
        runner.send(submit(1, "x", stopping=ENDLESS))
        runner.wait_until(lambda: 1 in runner.answered and runner.answered[1].started)
        runner.send(commands.Stop())
        code = runner.wait_for_answer(1).error_code
        status = runner.process.wait(30)

    assert (code, status) == ("engine_unavailable", 0)


# ---- requests that end early


def test_a_deadline_ends_running_and_waiting_requests(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.01), max_sequences=1, context_length=65_536
    )
    with ChildRunner(load) as runner:
        runner.send(submit(1, "running", stopping=ENDLESS, deadline_seconds=0.2))
        runner.send(submit(2, "waiting", stopping=ENDLESS, deadline_seconds=0.1))
        runner.send(submit(3, "after both"))

        assert runner.wait_for_answer(1).error_code == "deadline_exceeded"
        assert runner.wait_for_answer(2).error_code == "deadline_exceeded"
        assert runner.wait_for_answer(3).failed is None


def test_cancelling_during_a_prompt_stops_it_at_the_next_step(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.05), context_length=65_536, batch_tokens=64
    )
    with ChildRunner(load) as runner:
        runner.send(submit(1, "p" * 60_000))
        runner.wait_until(lambda: 1 in runner.answered and runner.answered[1].started)
        runner.send(commands.Cancel((1, 77)))
        cancelled = runner.wait_for_answer(1)
        counters = runner.next_heartbeat().counters

    assert cancelled.reason is FinishReason.CANCELLED
    assert cancelled.finished[0].completion_tokens == 0
    assert counters.computed_tokens < 30_000


def test_a_full_queue_fails_requests_as_busy(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.02),
        max_sequences=1,
        max_queued=2,
        context_length=65_536,
    )
    with ChildRunner(load) as runner:
        runner.send(submit(0, "runs", stopping=ENDLESS))
        runner.wait_until(lambda: 0 in runner.answered and runner.answered[0].started)
        for id_ in (1, 2, 3):
            runner.send(submit(id_, "waits"))
        refused = runner.wait_for_answer(3)
        runner.wait_until(lambda: 2 in runner.answered)

        assert refused.error_code == "engine_busy"
        assert refused.failed is not None
        assert refused.failed.error["retry_after_seconds"] == 2.0
        assert (runner.answered[1].positions, runner.answered[2].positions) == ([1], [2])


def test_fifty_requests_of_one_principal_do_not_delay_another(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.005), max_sequences=4, context_length=65_536
    )
    with ChildRunner(load) as runner:
        for id_ in range(50):
            stopping = Stopping(max_tokens=100, ignore_eos=True)
            runner.send(submit(id_, f"{id_:02}", principal="flood", stopping=stopping))
        runner.wait_until(lambda: 3 in runner.answered and runner.answered[3].deltas)
        runner.complete(submit(99, "hello", principal="alice", stopping=Stopping(max_tokens=3)))
        ended = sum(bool(runner.answered[id_].finished) for id_ in range(50))

        assert ended < 50 - 4
        for id_ in range(50):
            assert runner.wait_for_answer(id_).finished[0].completion_tokens == 100


def test_a_batch_request_yields_to_an_interactive_one(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.005), max_sequences=1, context_length=65_536
    )
    with ChildRunner(load) as runner:
        slow = Stopping(max_tokens=400, ignore_eos=True)
        runner.send(submit(1, "in bulk", lane=Lane.BATCH, stopping=slow))
        runner.wait_until(lambda: 1 in runner.answered and runner.answered[1].deltas)
        runner.complete(submit(2, "hello", stopping=Stopping(max_tokens=3)))
        assert not runner.answered[1].finished

        assert runner.wait_for_answer(1).finished[0].completion_tokens == 400


def test_tokenize_returns_the_token_ids() -> None:
    with ChildRunner(fake_config()) as runner:
        runner.send(
            commands.Tokenize(9, (TextPiece("ab"), TextPiece("<|turn|>")), add_special=False)
        )

        assert runner.wait_for_first(reports.Tokenized) == reports.Tokenized(9, (97, 98, 257))


def test_detokenize_returns_the_text_also_of_control_and_end_tokens() -> None:
    with ChildRunner(fake_config()) as runner:
        runner.send(commands.Detokenize(9, (97, 257, 0xC3, 0xA9, 0xFF, 256)))

        text = "a<|turn|>\u00e9\ufffd<|end|>"
        assert runner.wait_for_first(reports.Detokenized) == reports.Detokenized(9, text)


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
