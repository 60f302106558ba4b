"""What an error costs: its request, its step, and nothing more."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from services.engine.core import FinishReason, Sampling
from tests.conftest import TINY_MLX
from tests.contracts.batching import BatchRun
from tests.engine.runner.child_runner import submit
from tests.engine.runner.mlx.mlx_requests import build


def test_a_failed_step_costs_its_requests_and_nothing_more(
    make_run: Callable[..., BatchRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(max_sequences=1)
    run.add(build(1, "runs"), build(2, "waits"))
    run.step()
    batch = run.batcher._batch  # type: ignore[attr-defined]
    broken = batch._generator

    def fail() -> None:
        raise RuntimeError("[metal::malloc] Attempting to allocate too much")

    monkeypatch.setattr(broken, "next", fail)
    run.step()

    assert run.answered[1].error_code == "internal_error"
    assert run.batcher.read_state().failed_steps == 1
    assert batch._generator is not broken
    run.finish()
    assert run.answered[2].reason is FinishReason.LENGTH
    assert run.batcher.read_state().failed_steps == 0


def test_a_request_that_cannot_begin_ends_with_an_error(
    run: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = run.batcher._batch  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_insert", lambda *_: 1 // 0)
        run.add(build(1, "a"))
        run.step()
    run.answer(build(2, "b"))

    assert run.answered[1].error_code == "internal_error"
    assert run.answered[2].reason is FinishReason.LENGTH


def test_a_prefix_that_cannot_be_kept_costs_nothing_else(
    run: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = run.batcher._batch  # type: ignore[attr-defined]
    monkeypatch.setattr(batch._prefixes, "put", lambda *_: 1 // 0)
    answers = run.answer(build(1, "a"), build(2, "b"))

    assert {answer.reason for answer in answers} == {FinishReason.LENGTH}


def test_an_error_in_sampling_costs_its_request_only(run: BatchRun) -> None:
    nothing = Sampling(temperature=0.0, logit_bias=dict.fromkeys(range(1024), -math.inf))
    bad, good = run.answer(build(1, "a", sampling=nothing), build(2, "b"))

    assert bad.error_code == "invalid_request"
    assert good.reason is FinishReason.LENGTH


def test_a_bug_in_sampling_costs_its_request_only(
    run: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.add(build(1, "a long one", top_logprobs=1), build(2, "b", top_logprobs=1))
    (first, _) = (run._output_processor._requests[id_].answers[0] for id_ in (1, 2))
    monkeypatch.setattr(first, "pick", lambda _: 1 // 0)
    run.finish()

    assert run.answered[1].error_code == "internal_error"
    assert run.answered[2].reason is FinishReason.LENGTH
    again = run.answer(build(3, "a long one"))[0]
    assert again.finished[0].cached_tokens == 0  # what led to an error is not kept


@pytest.mark.parametrize("changes", [{}, {"top_logprobs": 1}], ids=["greedy", "our sampling"])
def test_numbers_that_are_none_end_a_request_with_an_error(
    make_run: Callable[..., BatchRun], tmp_path: Path, changes: dict[str, Any]
) -> None:
    for path in TINY_MLX.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(TINY_MLX / "model.safetensors")
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], np.nan)
    save_file(tensors, tmp_path / "model.safetensors")
    run = make_run(tmp_path)

    answer = run.answer(submit(1, "a", **changes))[0]

    assert answer.error_code == "internal_error"


def test_a_scored_prompt_that_cannot_begin_ends_with_an_error(
    run: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run.batcher._batch, "_insert", lambda *_: 1 // 0)  # type: ignore[attr-defined]
        answer = run.answer(build(1, "a prompt", prompt_logprobs=True, top_logprobs=1))[0]

    assert answer.error_code == "internal_error"
