"""Snapshots of prompts where messages end: which are stored, when, and what is found of them."""

from __future__ import annotations

import random
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from services.engine.core import CacheKey, MemoryPolicy, Sampling, Stopping
from services.engine.messages.commands import Submit
from tests.contracts.storing import ALICE, BOB
from tests.engine.runner.child_runner import submit
from tests.engine.runner.kvcache.stores import wait_until_written
from tests.engine.runner.stepping.storing_batcher import StoringRun, ids, list_tokens, storing

WITHOUT_BLOCKS = [MemoryPolicy.WINDOW, MemoryPolicy.RECURRENT]
SYSTEM = "".join(random.Random(1).choices("abcdefghijkl mnopqrs", k=300))
CUT = 299  # one token less than the text


def chat(*texts: str, keys: tuple[CacheKey, ...] = ALICE, count: int = 6, **changes: Any) -> Submit:
    """A greedy request of Alice; each text but the last ends at a cut."""
    options: dict[str, Any] = {
        "cuts": tuple(accumulate(map(len, texts[:-1]))),
        "sampling": Sampling(temperature=0.0),
        "stopping": Stopping(max_tokens=count, ignore_eos=True),
        "cache_keys": keys,
        "realm": "alice",
    }
    return submit(next(ids), "".join(texts), **options | changes)


def read_cached(run: StoringRun, asked: Submit) -> tuple[int, int]:
    finished = run.answer(asked)[0].finished[0]
    return finished.cached_tokens, finished.stored_tokens


@pytest.mark.parametrize("policy", WITHOUT_BLOCKS)
def test_the_system_prompt_is_stored_and_found_by_other_chats_of_the_tenant(
    tmp_path: Path, policy: MemoryPolicy
) -> None:
    with storing(tmp_path, policy) as run:
        run.answer(chat(SYSTEM, "what is this?"))
    with storing(tmp_path, policy) as run:
        bob = read_cached(run, chat(SYSTEM, "who are you?", keys=BOB, realm="bob"))
        found = [read_cached(run, chat(SYSTEM, question)) for question in ("who?", "and why?")]
        answer = list_tokens(run.answer(chat(SYSTEM, "at last"))[0])
        alone = list_tokens(run.answer(chat(SYSTEM, "at last", no_cache=True))[0])

    assert bob == (0, 0)
    assert found[0] == (CUT, CUT)
    assert found[1] in [(CUT, 0), (CUT + 1, 0)]  # in memory, where a window shares any token
    assert answer == alone


@pytest.mark.parametrize("policy", WITHOUT_BLOCKS)
def test_many_chats_do_not_replace_the_snapshot_of_their_system_prompt(
    tmp_path: Path, policy: MemoryPolicy
) -> None:
    """Theirs are of the same node, which has four."""
    with storing(tmp_path, policy) as run:
        for number in range(9):
            run.answer(chat(SYSTEM, f"{number} " + "is a question " * 6))
            wait_until_written(run.store)
    with storing(tmp_path, policy) as run:
        assert read_cached(run, chat(SYSTEM, "another")) == (CUT, CUT)


@pytest.mark.parametrize("policy", WITHOUT_BLOCKS)
def test_a_step_copies_one_state_of_prompts_that_reach_their_cuts_together(
    tmp_path: Path, policy: MemoryPolicy
) -> None:
    systems = [f"{number}{SYSTEM}" for number in range(4)]
    with storing(tmp_path, policy, batch_tokens=2048) as run:
        requests = [chat(system, "what is this? " * 10, count=40) for system in systems]
        run.add(*requests)
        while not all(run.answered[request.id].deltas for request in requests):
            before = len(run.backend.saved)
            run.step()
            states = [end for start, end in run.backend.saved[before:] if start == 0]
            assert len(states) <= 1
        run.finish()
    with storing(tmp_path, policy) as run:
        found = [read_cached(run, chat(system, "another")) for system in systems]
    assert found == [(CUT + 1, CUT + 1)] * 4


@pytest.mark.parametrize("policy", WITHOUT_BLOCKS)
def test_a_cut_just_behind_a_stored_answer_is_not_stored_again(
    tmp_path: Path, policy: MemoryPolicy
) -> None:
    with storing(tmp_path, policy) as run:
        first = chat(SYSTEM, "what is this? " * 6)
        answer = list_tokens(run.answer(first)[0])
        before = len(run.backend.saved)
        turns = SYSTEM + "what is this? " * 6 + answer
        run.answer(chat(SYSTEM, turns[len(SYSTEM) :] + " user: ", "and what is that? " * 6))

        states = [end for start, end in run.backend.saved[before:] if start == 0 and end > 0]
        length = len(turns) + len(" user: ") + 6 * len("and what is that? ")
        assert states == [length - 8, length + 5]
