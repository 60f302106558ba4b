"""`python -m services.cli.install [--dev] [--then ARGUMENTS…]`: make .venv, then become the cli."""

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
from services.cli.install.failures import SetupFailed
from services.cli.install.llama_wheel import build_identity
from services.cli.install.progress_line import ProgressLine
from services.cli.install.reexec import exec_module
from services.cli.install.setup import Setup

ROOT = Path(__file__).resolve().parents[3]


def main(arguments: Sequence[str]) -> int:
    """The exit status; on success with `--then` this process becomes the command line."""
    own, then = _split(arguments)
    if unknown := [word for word in own if word != "--dev"]:
        usage = "usage: ./spindll setup [--dev]"
        print(f"spindll setup: unknown argument {unknown[0]} ({usage})", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    screen = ProgressLine()
    try:
        _set_up(screen, dev="--dev" in own)
    except SetupFailed as failure:
        screen.abandon()
        screen.say(f"spindll: {failure}")
        return 1
    except OSError as error:
        screen.abandon()
        screen.say(f"spindll: cannot set up in {ROOT}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        screen.abandon()
        screen.say("interrupted; the next ./spindll starts this set-up over")
        return 130
    if then is not None:
        exec_module(ROOT, str(venv_state.venv_python(ROOT)), "services.cli", then)
    return 0


def _set_up(screen: ProgressLine, *, dev: bool) -> None:
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with _alone(build / "setup.lock", screen):
        made = venv_state.read(ROOT)
        # A GPU build was asked for once; later set-ups must not quietly take it back.
        os.environ.setdefault("CMAKE_ARGS", made.get("cmake_args", ""))
        if venv_state.is_current(ROOT, dev) and made.get("llama") == build_identity(ROOT):
            return
        Setup(ROOT, screen, CommandRunner(build / "setup.log", screen)).run(dev=dev)


@contextmanager
def _alone(lock: Path, screen: ProgressLine) -> Iterator[None]:
    """One set-up at a time in this folder; the system drops the lock with the process."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            screen.say("another ./spindll is setting up here; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    if "--then" not in arguments:
        return list(arguments), None
    at = list(arguments).index("--then")
    return list(arguments[:at]), list(arguments[at + 1 :])


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
