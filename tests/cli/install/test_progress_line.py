from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from services.cli.install.command_runner import CommandRunner
from services.cli.install.failures import SetupFailed, explain
from services.cli.install.progress_line import ProgressLine, duration, summary


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("  [12/193] Building CXX object a/CMakeFiles/ggml.dir/ggml-backend.cpp.o", "12 of 193: ggml-backend.cpp"),
        ("[ 42%] Building C object src/ggml.c.o", "42 %: ggml.c"),
        ("Collecting rich==15.0.0 (from -r local.lock)", "Collecting rich"),
        ("  Downloading https://files/typer-0.29.2-py3-none-any.whl.metadata (16 kB)", "Downloading typer-0.29.2-py3-none-any.whl.metadata"),
        ("Installing collected packages: a, b", "installing"),
        ("  *** Configuring CMake...", "configuring"),
        ("-- Found OpenMP", None),
        ("", None),
    ],
    ids=["ninja", "make", "collecting", "downloading", "installing", "cmake", "noise", "empty"],
)  # fmt: skip
def test_a_build_line_in_a_few_words(line: str, said: str | None) -> None:
    assert summary(line) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (59.9, "59 s"), (61, "1:01")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("output", "status", "said"),
    [
        (["x", "OSError: [Errno 28] No space left on device"], 1, "the disk is full"),
        (["NewConnectionError: Failed", "ERROR: No matching distribution found for x"], 1, "no connection"),
        (["ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"], 1, "not the one the lock file names"),
        (["c++: fatal error: Killed signal terminated program cc1plus"], 1, "ran out of memory"),
        (["ERROR: No matching distribution found for x==1"], 1, "no build for this platform"),
        (["one", "error: something new", "two"], 1, "error: something new"),
        (["nothing to see"], 3, "exit status 3"),
        ([], -9, "signal 9"),
    ],
    ids=["disk", "network", "hashes", "memory", "platform", "unknown", "silent", "killed"],
)  # fmt: skip
def test_a_failure_in_words(output: list[str], status: int, said: str) -> None:
    assert said in explain(output, status)


def run(tmp_path: Path, program: str) -> tuple[str, str]:
    out = io.StringIO()
    screen = ProgressLine(out)
    screen.begin("working")
    CommandRunner(tmp_path / "setup.log", screen).run([sys.executable, "-c", program])
    screen.end("done")
    return out.getvalue(), (tmp_path / "setup.log").read_text()


def test_a_command_s_output_goes_to_the_log_and_its_end_to_the_person(tmp_path: Path) -> None:
    shown, log = run(tmp_path, "print('hello', flush=True)")

    assert shown == "working …\nworking: done (0 s)\n"
    assert log.splitlines()[-1] == "hello"


def test_a_command_that_fails_says_why_and_where_the_log_is(tmp_path: Path) -> None:
    with pytest.raises(SetupFailed) as failure:
        run(tmp_path, "import sys; print('No space left on device'); sys.exit(1)")

    assert str(failure.value) == (
        f"the disk is full: free some space and run it again (log: {tmp_path / 'setup.log'})"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_is_rewritten() -> None:
    out = Terminal()
    screen = ProgressLine(out)
    screen.begin("compiling")
    screen.moved("1 of 9: a.cpp")
    screen.end("done")

    assert out.getvalue().split("\n") == [
        "\r\x1b[Kcompiling · 0 s\r\x1b[Kcompiling: done (0 s)",
        "",
    ]
