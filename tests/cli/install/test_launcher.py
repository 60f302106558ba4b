"""./spindll and its installer in a copy of what they need, under a Python that only prints."""

from __future__ import annotations

import ast
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.install import venv_state
from services.cli.install.llama_wheel import build_identity
from tests.waiting import SECONDS

ROOT = Path(__file__).resolve().parents[3]
OLD_SYNTAX = [
    ROOT / "spindll",
    ROOT / "services" / "__init__.py",
    ROOT / "services" / "cli" / "__init__.py",
    ROOT / "services" / "cli" / "install" / "__init__.py",
    ROOT / "services" / "cli" / "install" / "reexec.py",
    ROOT / "services" / "cli" / "install" / "venv_state.py",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The launcher's own files, nothing else."""
    root = tmp_path / "checkout"
    for path in [*OLD_SYNTAX, *(ROOT / "services" / "cli" / "install").glob("*.py")]:
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(ROOT / "locks", root / "locks")
    return root


def finish_set_up(root: Path) -> None:
    """As the installer leaves it, with a Python that prints its arguments."""
    venv_state.claim(root)
    python = venv_state.venv_python(root)
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    venv_state.finish(root, dev=False, cmake_args="", llama=build_identity(root))


def spindll(
    root: Path, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "spindll"), *arguments],
        cwd=cwd or root,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("path", OLD_SYNTAX, ids=lambda path: path.name)
def test_what_any_python_may_read_has_the_syntax_of_3_7(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 7))


def test_a_finished_set_up_is_handed_over_to_at_once(root: Path, tmp_path: Path) -> None:
    finish_set_up(root)
    said = spindll(root, "run", "tiny", "two words", cwd=tmp_path)

    assert said.stdout == f"{root} -P -m services.cli run tiny two words\n"
    assert said.stderr == ""


def test_a_changed_lock_file_makes_the_set_up_out_of_date(root: Path) -> None:
    finish_set_up(root)
    assert venv_state.is_current(root)
    lock = root / "locks" / "local.lock"
    lock.write_text(lock.read_text() + "\n")

    assert not venv_state.is_current(root)


def test_a_set_up_for_running_is_none_for_developing(root: Path) -> None:
    finish_set_up(root)

    assert not venv_state.is_current(root, dev=True)


def test_an_interrupted_set_up_counts_for_nothing_but_what_was_asked_for(root: Path) -> None:
    finish_set_up(root)
    venv_state.begin(root, dev=True, cmake_args="-DGGML_CUDA=on")

    assert not venv_state.is_current(root)
    assert venv_state.read(root) == {"cmake_args": "-DGGML_CUDA=on", "dev": "under way"}


def test_other_build_options_are_another_build(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    plain = build_identity(root)
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")

    assert build_identity(root) != plain


def test_a_python_that_went_away_makes_the_set_up_out_of_date(root: Path) -> None:
    finish_set_up(root)
    venv_state.venv_python(root).unlink()

    assert not venv_state.is_current(root)


def test_help_needs_no_set_up(root: Path) -> None:
    said = spindll(root, "--help")

    assert "./spindll up" in said.stdout
    assert not (root / ".venv").exists()


def test_an_environment_somebody_else_made_is_left_alone(root: Path) -> None:
    (root / ".venv").mkdir()
    (root / ".venv" / "mine").touch()
    said = spindll(root, "up")

    assert said.returncode == 1
    assert said.stderr.splitlines() == [
        f"spindll: {root}/.venv was not made by ./spindll: move it away and run it again"
    ]
    assert (root / ".venv" / "mine").exists()


def test_a_missing_compiler_is_named_before_anything_is_downloaded(root: Path) -> None:
    said = spindll(
        root,
        "setup",
        CC="no-such-cc",
        CXX="no-such-c++",
        PIP_NO_INDEX="1",
        PIP_CONFIG_FILE=os.devnull,
        HOME=str(root),
    )

    assert said.returncode == 1
    assert said.stderr.splitlines()[-1].startswith(
        "spindll: llama.cpp has to be compiled and there is no cc and no c++ (Debian"
    )
    assert not venv_state.is_current(root)


def test_an_unknown_argument_is_refused(root: Path) -> None:
    said = spindll(root, "setup", "--everything")

    assert (said.returncode, said.stderr.startswith("spindll setup: unknown")) == (2, True)


def test_two_at_once_wait_for_each_other(root: Path) -> None:
    (root / "build").mkdir()
    with (root / "build" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [sys.executable, str(root / "spindll"), "status"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == (
            "another ./spindll is setting up here; waiting for it\n"
        )
        finish_set_up(root)  # the other one is done
    said, _ = waiting.communicate(timeout=SECONDS)

    assert said == f"{root} -P -m services.cli status\n"
