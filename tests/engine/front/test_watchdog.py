from __future__ import annotations

import subprocess
import sys

from services.engine.front.watchdog import EXIT_STATUS

_PROGRAM = """
import asyncio, time
from services.engine.front.watchdog import Watchdog

async def main():
    watchdog = Watchdog.start(asyncio.get_running_loop(), hung_seconds=0.5)
    {body}
    watchdog.stop()

asyncio.run(main())
print("ended by itself")
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(body=body)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_loop_that_hangs_ends_the_process_and_stderr_shows_where() -> None:
    ended = run("time.sleep(50)")

    assert ended.returncode == EXIT_STATUS
    assert "in main" in ended.stderr
    assert ended.stdout == ""


def test_a_loop_that_answers_is_not_ended() -> None:
    ended = run("await asyncio.sleep(2)")

    assert (ended.returncode, ended.stdout) == (0, "ended by itself\n")


def test_a_short_hang_does_not_end_the_process() -> None:
    ended = run("time.sleep(0.2); await asyncio.sleep(0.5)")

    assert (ended.returncode, ended.stdout) == (0, "ended by itself\n")


def test_after_stop_a_hang_does_not_end_the_process() -> None:
    ended = run("watchdog.stop(); time.sleep(2)")

    assert (ended.returncode, ended.stdout) == (0, "ended by itself\n")
