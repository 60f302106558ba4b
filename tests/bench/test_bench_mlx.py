"""`python -m bench.mlx`: the folder that it makes, and the files that it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.answer import StreamedAnswer
from bench.mlx import compute_generation_speed, copy_without_end
from bench.results import read_csv
from services.engine.backends.mlx.folder import read_end_tokens
from tests.conftest import ROOT, TINY_MLX
from tests.engine.backends.mlx.mlx_tests import skip_without_mlx


def test_the_copied_folder_differs_in_its_end_token_only(tmp_path: Path) -> None:
    copy = copy_without_end(TINY_MLX, tmp_path / "copy")
    before, after = (json.loads((f / "config.json").read_text()) for f in (TINY_MLX, copy))

    assert after == before | {"eos_token_id": before["vocab_size"] - 1}
    assert (copy / "model.safetensors").read_bytes() == (
        TINY_MLX / "model.safetensors"
    ).read_bytes()
    ends = read_end_tokens(copy, after)
    assert ends == {after["eos_token_id"]}, "Spindll would end its answers earlier"


def build_answer(**fields: Any) -> StreamedAnswer:
    rest = {"text": "", "prompt_tokens": 5, "cached_tokens": 0, "error": None}
    return StreamedAnswer(**{"sent_at": 10.0, **rest, **fields})


def test_the_speed_of_an_answer_leaves_its_prompt_out() -> None:
    answers = [
        build_answer(ended_at=13.0, arrival_times=(11.0, 13.0), completion_tokens=9),
        build_answer(ended_at=10.5, arrival_times=(10.5,), completion_tokens=1),
        build_answer(ended_at=None, arrival_times=(), completion_tokens=0),
    ]

    assert compute_generation_speed(answers) == 4.0
    assert compute_generation_speed(answers[1:]) is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_run_measures_both_servers_and_the_command(tmp_path: Path) -> None:
    skip_without_mlx()
    command = [sys.executable, "-m", "bench.mlx", "--quick", "--prefix-words", "150"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    measurements, _ = read_csv(next(tmp_path.glob("*-mlx.csv")))
    scenarios = {(m.scenario, m.server) for m in measurements}
    servers = ("spindll", "mlx_lm.server")
    names = ("throughput", "shared prefix", "after a restart")
    assert scenarios == {
        *((name, server) for name in names for server in servers),
        ("throughput", "mlx_lm.generate"),
    }
    cached = {
        (m.scenario, m.case, m.server): m.value
        for m in measurements
        if m.metric == "cached_percent"
    }
    assert cached["after a restart", "same prefix", "spindll"] > 50
    assert cached["after a restart", "same prefix", "mlx_lm.server"] == 0
