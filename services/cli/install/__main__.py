"""`python -m services.cli.install [--dev] [--mlx] [--then ARGUMENTS…]`: make .venv, then run a command."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from services.cli.install import venv_state
from services.cli.install.command_runner import CommandRunner
from services.cli.install.llama_wheel import build_identity
from services.cli.install.progress_line import ProgressLine
from services.cli.install.reexec import exec_module
from services.cli.install.setup import Setup
from services.cli.install.setup_errors import SetupError

ROOT = Path(__file__).resolve().parents[3]
HELP = """\
usage: ./spindll setup [--dev] [--mlx]

Make .venv, or bring it up to date. Every command does so by itself when it is needed.

  --dev       with the packages that tests and checks need
  --mlx       with MLX; llama-cpp-python only where there is a wheel of it or CMAKE_ARGS is set
  -h, --help  show this text
"""


def main(arguments: Sequence[str]) -> int:
    """Make .venv; its exit status. With `--then` this process is replaced by the command line."""
    own, then = _split(arguments)
    if "-h" in own or "--help" in own:
        print(HELP, end="")
        return 0
    if unknown := [word for word in own if word not in ("--dev", "--mlx")]:
        usage = HELP.splitlines()[0]
        print(f"spindll setup: unknown argument {unknown[0]} ({usage})", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _on_sigterm)
    progress = ProgressLine()
    try:
        _set_up(progress, dev="--dev" in own, mlx="--mlx" in own)
    except SetupError as failure:
        progress.clear()
        progress.print_line(f"spindll: {failure}")
        return 1
    except OSError as error:
        progress.clear()
        progress.print_line(f"spindll: cannot set up in {ROOT}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        progress.clear()
        progress.print_line("the set-up was interrupted; the next ./spindll starts it again")
        return 130
    if then is not None:
        exec_module(ROOT, str(venv_state.venv_python(ROOT)), "services.cli", then)
    return 0


def _set_up(progress: ProgressLine, *, dev: bool, mlx: bool) -> None:
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with _setup_lock(build / "setup.lock", progress):
        state = venv_state.read(ROOT)
        # The last requested build options stay: a later set-up must not silently undo a GPU build.
        os.environ.setdefault("CMAKE_ARGS", state.get("cmake_args", ""))
        is_current = venv_state.is_current(ROOT, dev=dev, mlx=mlx)
        if is_current and state.get("llama") == build_identity(ROOT):
            return
        Setup(ROOT, progress, CommandRunner(build / "setup.log", progress)).run(dev=dev, mlx=mlx)


@contextmanager
def _setup_lock(lock: Path, progress: ProgressLine) -> Iterator[None]:
    """Allow one set-up at a time in this folder. The lock ends with its process."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.print_line("waiting for another ./spindll that is running the set-up")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    if "--then" not in arguments:
        return list(arguments), None
    at = list(arguments).index("--then")
    return list(arguments[:at]), list(arguments[at + 1 :])


def _on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
