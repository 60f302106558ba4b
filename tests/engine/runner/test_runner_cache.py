"""The runner as a process that stores computed prompts, and one that finds them."""

from __future__ import annotations

import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.engine.core import CacheKey, CacheStored, Stopping
from services.engine.messages.commands import Stop, Submit
from services.engine.messages.reports import CacheReport, Ready
from tests.contracts.storing import ALICE, BOB, build_cache, draw_prompt
from tests.engine.runner.child_runner import ChildRunner, config, fake_config, submit

PROMPT = tuple(draw_prompt(random.Random(1), 900))
STORED = 3 * 256


def count_stored(runner: ChildRunner) -> int:
    """The tokens that the runner has reported to be stored."""
    reports = [report for report in runner.reports if isinstance(report, CacheReport)]
    events = [event for report in reports for event in report.events]
    return sum(event.tokens for event in events if isinstance(event, CacheStored))


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_new_process_finds_what_another_one_computed(tmp_path: Path, end: str) -> None:
    load = config(cache=build_cache(tmp_path))
    request = submit(1, tokens=PROMPT, cache_keys=ALICE, realm="alice")
    with ChildRunner(load) as runner:
        first = runner.complete(request)
        if end == "killed":
            runner.wait_until(lambda: count_stored(runner) >= STORED)
            runner.process.kill()
        else:
            runner.send(Stop(30.0))
            runner.wait_until(lambda: runner.has_ended)
            assert runner.process.wait(30.0) == 0
            assert count_stored(runner) >= STORED

    with ChildRunner(load) as runner:
        again = runner.complete(request)
        other = runner.complete(
            submit(2, tokens=PROMPT, cache_keys=BOB, realm="bob", stopping=request.stopping)
        )

    assert again.text == first.text == other.text
    finished = again.finished[0]
    assert (finished.stored_tokens, finished.tier) == (STORED, "disk")
    assert finished.disk_tokens == STORED
    assert finished.saved_seconds > 0
    assert other.finished[0].cached_tokens == 0


@pytest.mark.parametrize("model", ["tiny-window", "tiny-recurrent", "tiny-hybrid"])
def test_a_new_process_finds_the_system_prompt_of_another_chat(
    tmp_path: Path, synthetic_model: Callable[[str], Path], model: str
) -> None:
    """The first process is killed; its prompt goes on with another question."""
    load = config(synthetic_model(model), cache=build_cache(tmp_path))
    system = "".join(random.Random(2).choices("abcdefghij klmnopq", k=900))

    def ask(id_: int, question: str, keys: tuple[CacheKey, ...], realm: str) -> Submit:
        stopping = Stopping(max_tokens=8, ignore_eos=True)
        text, cuts = system + question, (len(system),)
        return submit(
            id_, text, cuts=cuts, cache_keys=keys, realm=realm, stopping=stopping, add_special=False
        )

    with ChildRunner(load) as runner:
        tokens = runner.complete(ask(1, "what? " * 30, ALICE, "alice")).finished[0].prompt_tokens
        runner.wait_until(lambda: count_stored(runner) >= tokens)
        runner.process.kill()
    with ChildRunner(load) as runner:
        stored = runner.complete(ask(2, "and then?", ALICE, "alice"))
        computed = runner.complete(ask(3, "and then?", BOB, "bob"))

    prompt_tokens = stored.finished[0].prompt_tokens
    assert prompt_tokens - 16 < stored.finished[0].stored_tokens < prompt_tokens
    assert computed.finished[0].cached_tokens == 0
    assert stored.text == computed.text


@pytest.mark.skipif(sys.platform != "linux", reason="psutil reads limits there only")
def test_a_runner_leaves_no_core_dump() -> None:
    """Prompts and keys would be in it, in clear, on a disk; see forbid_core_dumps."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        with ChildRunner(fake_config()) as runner:
            runner.wait_for_first(Ready)
            assert psutil.Process(runner.process.pid).rlimit(psutil.RLIMIT_CORE) == (1, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
