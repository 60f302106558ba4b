from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from services.cli.install.command_runner import CommandRunner
from services.cli.install.progress_line import ProgressLine, format_elapsed, summarize
from services.cli.install.setup_errors import SetupError, explain


@pytest.mark.parametrize(
    ("line", "expected"),
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
def test_a_build_line_is_summarized(line: str, expected: str | None) -> None:
    assert summarize(line) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "0 s"), (59.9, "59 s"), (61, "1:01")])
def test_an_elapsed_time_is_in_seconds_or_minutes(seconds: float, expected: str) -> None:
    assert format_elapsed(seconds) == expected


@pytest.mark.parametrize(
    ("output", "status", "expected"),
    [
        (["x", "OSError: [Errno 28] No space left on device"], 1, "the disk is full"),
        (["NewConnectionError: Failed", "ERROR: No matching distribution found for x"], 1, "no connection"),
        (["ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"], 1, "does not have the hash in the lock file"),
        (["c++: fatal error: Killed signal terminated program cc1plus"], 1, "ran out of memory"),
        (["ERROR: No matching distribution found for x==1"], 1, "no build for this platform"),
        (["xcode-select: note: no developer tools were found"], 1, "xcode-select --install"),
        (["one", "error: something new", "two"], 1, "error: something new"),
        (["nothing to see"], 3, "exit status 3"),
        ([], -9, "signal 9"),
    ],
    ids=["disk", "network", "hashes", "memory", "platform", "xcode", "unknown", "silent", "killed"],
)  # fmt: skip
def test_a_failure_is_explained(output: list[str], status: int, expected: str) -> None:
    assert expected in explain(output, status)


def run(tmp_path: Path, program: str) -> tuple[str, str]:
    out = io.StringIO()
    progress = ProgressLine(out)
    progress.begin("working")
    CommandRunner(tmp_path / "setup.log", progress).run([sys.executable, "-c", program])
    progress.end("done")
    return out.getvalue(), (tmp_path / "setup.log").read_text()


def test_output_goes_to_the_log_and_the_result_to_the_terminal(tmp_path: Path) -> None:
    shown, log = run(tmp_path, "print('hello', flush=True)")

    assert shown == "working …\nworking: done (0 s)\n"
    assert log.splitlines()[-1] == "hello"


def test_a_failed_command_reports_the_reason_and_the_log(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as failure:
        run(tmp_path, "import sys; print('No space left on device'); sys.exit(1)")

    assert str(failure.value) == (
        f"the disk is full: free some space and run it again (log: {tmp_path / 'setup.log'})"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_line_is_rewritten() -> None:
    out = Terminal()
    progress = ProgressLine(out)
    progress.begin("compiling")
    progress.update("1 of 9: a.cpp")
    progress.end("done")

    assert out.getvalue().split("\n") == [
        "\r\x1b[Kcompiling · 0 s\r\x1b[Kcompiling: done (0 s)",
        "",
    ]
