"""./spindll and its installer in a minimal copy, where the Python of .venv only prints."""

from __future__ import annotations

import ast
import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.install import venv_state
from services.cli.install.llama_wheel import build_identity
from tests.waiting import SECONDS

ROOT = Path(__file__).resolve().parents[2]
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
    """A folder with only the files that the launcher needs."""
    root = tmp_path / "checkout"
    for path in [*OLD_SYNTAX, *(ROOT / "services" / "cli" / "install").glob("*.py")]:
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(ROOT / "locks", root / "locks")
    return root


def finish_set_up(root: Path) -> None:
    """Make .venv as the installer does, with a Python that prints its arguments."""
    venv_state.mark_as_ours(root)
    python = venv_state.venv_python(root)
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    venv_state.mark_finished(root, dev=False, cmake_args="", llama=build_identity(root))


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
def test_files_that_any_python_may_read_have_the_syntax_of_3_7(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 7))


def test_a_finished_set_up_runs_the_command_at_once(root: Path, tmp_path: Path) -> None:
    finish_set_up(root)
    result = spindll(root, "run", "tiny", "two words", cwd=tmp_path)

    assert result.stdout == f"{root} -P -m services.cli run tiny two words\n"
    assert result.stderr == ""


def test_a_changed_lock_file_makes_the_set_up_out_of_date(root: Path) -> None:
    finish_set_up(root)
    assert venv_state.is_current(root)
    lock = root / "locks" / "local.lock"
    lock.write_text(lock.read_text() + "\n")

    assert not venv_state.is_current(root)


def test_a_set_up_without_dev_does_not_count_for_dev(root: Path) -> None:
    finish_set_up(root)

    assert not venv_state.is_current(root, dev=True)


def test_an_interrupted_set_up_keeps_only_its_options(root: Path) -> None:
    finish_set_up(root)
    venv_state.mark_started(root, dev=True, cmake_args="-DGGML_CUDA=on")

    assert not venv_state.is_current(root)
    assert venv_state.read(root) == {"cmake_args": "-DGGML_CUDA=on", "dev": "under way"}


def test_other_build_options_have_another_build_identity(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    plain = build_identity(root)
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")

    assert build_identity(root) != plain


@pytest.mark.parametrize(
    ("changed", "is_current"), [("mlx.lock", False), ("dev.lock", True)], ids=["mlx", "dev"]
)
def test_a_set_up_with_mlx_follows_the_lock_file_of_mlx(
    root: Path, changed: str, is_current: bool
) -> None:
    finish_set_up(root)
    assert not venv_state.is_current(root, mlx=True)
    venv_state.mark_finished(root, dev=False, mlx=True, cmake_args="", llama="")
    assert venv_state.is_current(root, mlx=True)
    lock = root / "locks" / changed
    lock.write_text(lock.read_text() + "\n")

    assert venv_state.is_current(root) is is_current


def test_with_mlx_no_compiler_is_needed(root: Path) -> None:
    result = spindll(
        root,
        *("setup", "--mlx"),
        CC="no-such-cc",
        CXX="no-such-c++",
        PIP_NO_INDEX="1",
        PIP_CONFIG_FILE=os.devnull,
        HOME=str(root),
    )

    assert result.returncode == 1  # only the packages, which are not there, stop it
    assert "must be compiled" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        "spindll: the package index has no build for this platform"
    )


def test_the_lock_files_of_one_environment_have_the_same_versions() -> None:
    locked = {
        name: set(re.findall(r"^(\S+)==(\S+)", text, re.MULTILINE))
        for name in ("local.lock", "dev.lock", "mlx.lock")
        for text in [(ROOT / "locks" / name).read_text()]
    }

    for other in ("local.lock", "dev.lock"):
        both = {name for name, _ in locked["mlx.lock"]} & {name for name, _ in locked[other]}
        assert len(both) > 20
        assert {(name, v) for name, v in locked["mlx.lock"] if name in both} == {
            (name, v) for name, v in locked[other] if name in both
        }


def test_a_missing_interpreter_makes_the_set_up_out_of_date(root: Path) -> None:
    finish_set_up(root)
    venv_state.venv_python(root).unlink()

    assert not venv_state.is_current(root)


def test_help_needs_no_set_up(root: Path) -> None:
    result = spindll(root, "--help")

    assert "./spindll up" in result.stdout
    assert not (root / ".venv").exists()


def test_a_foreign_environment_is_left_alone(root: Path) -> None:
    (root / ".venv").mkdir()
    (root / ".venv" / "mine").touch()
    result = spindll(root, "up")

    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"spindll: {root}/.venv was not made by ./spindll: move it away and run it again"
    ]
    assert (root / ".venv" / "mine").exists()


def test_a_missing_compiler_is_named_before_anything_is_downloaded(root: Path) -> None:
    result = spindll(
        root,
        "setup",
        CC="no-such-cc",
        CXX="no-such-c++",
        PIP_NO_INDEX="1",
        PIP_CONFIG_FILE=os.devnull,
        HOME=str(root),
    )

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        "spindll: llama.cpp must be compiled, but there is no cc and no c++ (Debian"
    )
    assert not venv_state.is_current(root)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_setup_shows_its_help_and_makes_nothing(root: Path, option: str) -> None:
    result = spindll(root, "setup", option)

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: ./spindll setup [--dev] [--mlx]\n")
    assert not (root / ".venv").exists()


def test_an_unknown_argument_is_refused(root: Path) -> None:
    result = spindll(root, "setup", "--everything")

    assert (result.returncode, result.stderr.startswith("spindll setup: unknown")) == (2, True)


def test_a_second_set_up_waits_for_the_first(root: Path) -> None:
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
            "waiting for another ./spindll that is running the set-up\n"
        )
        finish_set_up(root)  # as the other process does
    result, _ = waiting.communicate(timeout=SECONDS)

    assert result == f"{root} -P -m services.cli status\n"
