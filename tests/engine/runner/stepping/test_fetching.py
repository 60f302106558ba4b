"""A branch that waits for what is stored of its prompt: it begins late, and never wrongly."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from services.engine.core import CacheRejected, FinishReason, Lane, MemoryPolicy
from services.engine.runner.batcher import Failed
from services.engine.runner.kvcache.fetch import Fetch
from services.engine.runner.stepping.step_batcher import StepBatcher
from tests.contracts.storing import BLOCK, draw_prompt
from tests.engine.runner.stepping.storing_batcher import (
    StoringRun,
    ask,
    compute,
    list_tokens,
    storing,
)
from tests.waiting import until

PROMPT = draw_prompt(random.Random(1), 700)


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """PROMPT is stored; the names of its blocks."""
    with storing(tmp_path) as run:
        run.answer(ask(PROMPT))
        return run.stop()


@pytest.fixture
def wanted(tmp_path: Path) -> str:
    return compute(tmp_path, PROMPT)


def begin_to_fetch(run: StoringRun, **changes: object) -> int:
    """A request that is admitted, and waits for its first state."""
    request = ask(PROMPT, **changes)  # type: ignore[arg-type]
    run.add(request)
    run.step()
    assert run.batcher.read_state().running == 1
    assert run.answered[request.id].started is None
    return request.id


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_request_begins_when_its_fetch_is_over(
    tmp_path: Path, names: list[str], wanted: str
) -> None:
    with storing(tmp_path) as run:
        id_ = begin_to_fetch(run)
        run.finish()

        answered = run.answered[id_]
        assert answered.started is not None
        assert (answered.started.cached_tokens, answered.started.stored_tokens) == (512, 512)
        assert list_tokens(answered) == wanted
        assert run.batcher.counters.computed_tokens == 700 - 512
        assert len(names) == 2


def test_what_is_stored_of_the_next_request_comes_into_ram_while_it_waits(
    tmp_path: Path, names: list[str], wanted: str
) -> None:
    with storing(tmp_path, max_sequences=1) as run:
        first = ask(draw_prompt(random.Random(2), 40), count=1000)
        run.add(first)
        run.step()
        waiting = ask(PROMPT)
        run.add(waiting)
        run.step()
        until(lambda: {p.parent.name + p.name for p in (tmp_path / "ram").glob("??/*")} >= {*names})
        assert not run.answered[first.id].finished
        run.cancel(first.id)
        run.finish()

        answered = run.answered[waiting.id]
        assert list_tokens(answered) == wanted
        assert (answered.finished[0].stored_tokens, answered.finished[0].tier) == (512, "ram")


def test_a_request_that_is_cancelled_while_it_fetches_leaves_nothing_behind(
    tmp_path: Path, names: list[str], wanted: str
) -> None:
    with storing(tmp_path) as run:
        id_ = begin_to_fetch(run)
        run.cancel(id_)
        assert run.answered[id_].reason is FinishReason.CANCELLED
        run.check_cells()
        assert run.batcher.read_state().is_idle

        assert list_tokens(run.answer(ask(PROMPT))[0]) == wanted


def test_the_deadline_of_a_request_passes_while_it_fetches(
    tmp_path: Path, names: list[str]
) -> None:
    with storing(tmp_path) as run:
        id_ = begin_to_fetch(run, deadline_seconds=1000.0)

        events = run.batcher.step(time.monotonic() + 2000.0)

        assert [e.id for e in events if isinstance(e, Failed)] == [id_]
        assert run.batcher.read_state().is_idle
        run.check_cells()


def test_a_request_that_fetches_yields_its_place_and_fetches_again(
    tmp_path: Path, names: list[str], wanted: str
) -> None:
    with storing(tmp_path, max_sequences=1) as run:
        slow = begin_to_fetch(run, lane=Lane.BATCH)
        fast = ask(draw_prompt(random.Random(2), 40), lane=Lane.INTERACTIVE)
        run.add(fast)
        run.finish()

        assert run.batcher.counters.preemptions == 1
        assert list_tokens(run.answered[slow]) == wanted
        assert run.answered[slow].finished[0].stored_tokens == 512
        run.check_cells()


def test_a_block_that_was_changed_is_a_miss_and_the_rest_is_computed(
    tmp_path: Path, names: list[str], wanted: str
) -> None:
    damage(tmp_path / "disk" / names[1][:2] / names[1][2:])
    with storing(tmp_path) as run:
        answered = run.answer(ask(PROMPT))[0]

        assert list_tokens(answered) == wanted
        assert answered.finished[0].stored_tokens == BLOCK
        rejected = [e for e in run.store.take_events() if isinstance(e, CacheRejected)]
        assert [(e.name, e.reason) for e in rejected] == [(names[1], "authentication")]
        run.check_cells()


def test_a_state_that_the_backend_refuses_is_a_miss(
    tmp_path: Path, names: list[str], wanted: str
) -> None:
    with storing(tmp_path, behaviour={"refuses_load": True}) as run:
        answered = run.answer(ask(PROMPT))[0]

        assert list_tokens(answered) == wanted
        assert answered.finished[0].cached_tokens == answered.finished[0].stored_tokens == 0
        assert answered.finished[0].tier is None
        run.check_cells()


def test_a_refused_snapshot_leaves_the_prefix_that_is_in_memory(tmp_path: Path) -> None:
    """A longer snapshot is preferred to a computed prefix, which is used when that is a miss."""
    policy = MemoryPolicy.RECURRENT
    with storing(tmp_path, policy) as run:
        run.answer(ask(PROMPT))
    with storing(tmp_path, policy, behaviour={"refuses_load": False}) as run:
        run.answer(ask(PROMPT[:300]))
        for path in (tmp_path / "disk").glob("*/*"):
            path.write_bytes(path.read_bytes()[:-1])
        answered = run.answer(ask(PROMPT))[0]

        assert answered.finished[0].stored_tokens == 0
        assert answered.finished[0].cached_tokens == 292
        run.check_cells()


def test_a_prefix_that_a_branch_begins_with_is_not_lost_to_a_state_that_is_loaded(
    tmp_path: Path,
) -> None:
    """One branch gives up its fetch, and the next one loads its state in the same step."""
    policy, other = MemoryPolicy.WINDOW, draw_prompt(random.Random(7), 700)
    with storing(tmp_path, policy) as run:
        run.answer(ask(PROMPT))
    for path in (tmp_path / "disk").glob("*/*"):
        damage(path)
    with storing(tmp_path, policy) as run:
        run.answer(ask(other))
    with storing(tmp_path, policy) as run:
        run.answer(ask(PROMPT[:300], keys=()))
        assert isinstance(run.batcher, StepBatcher)
        requests = ask(PROMPT), ask(other)
        run.add(*requests)
        run.step()
        for branch in run.batcher._scheduler.admission.fetching:
            assert isinstance(branch.fetch, Fetch)
            branch.fetch.wait(30)
        run.finish()

        for request, prompt in zip(requests, (PROMPT, other), strict=True):
            alone = run.answer(ask(prompt, no_cache=True))[0]
            assert list_tokens(run.answered[request.id]) == list_tokens(alone)
        run.check_cells()


def test_room_for_a_state_is_made_of_idle_sequences(
    tmp_path: Path, names: list[str], wanted: str
) -> None:
    with storing(tmp_path, context_length=1024) as run:
        for seed in range(3, 7):
            run.answer(ask(draw_prompt(random.Random(seed), 240), keys=()))
        assert run.batcher.read_state().cells_used > 1024 - 512

        answered = run.answer(ask(PROMPT))[0]

        assert list_tokens(answered) == wanted
        assert answered.finished[0].stored_tokens == 512
        run.check_cells()


def test_a_computed_prefix_is_continued_with_what_is_stored_behind_it(
    tmp_path: Path, names: list[str], wanted: str
) -> None:
    """From the end of its last whole block on; but not to compute less than 64 tokens less."""
    with storing(tmp_path) as run:
        run.answer(ask(PROMPT[:300], keys=()))
        run.answer(ask([*PROMPT[:450], 65], realm="other", keys=()))

        answered = run.answer(ask(PROMPT))[0]
        other = run.answer(ask(PROMPT, realm="other"))[0]

        assert list_tokens(answered) == list_tokens(other) == wanted
        finished, unfetched = answered.finished[0], other.finished[0]
        assert (finished.cached_tokens, finished.stored_tokens) == (512, 256)
        assert (unfetched.cached_tokens, unfetched.stored_tokens) == (450, 0)
        run.check_cells()


def test_an_answer_to_a_prompt_of_whole_blocks_computes_the_last_block(
    tmp_path: Path, names: list[str]
) -> None:
    prompt = PROMPT[:512]
    with storing(tmp_path) as run:
        answered = run.answer(ask(prompt))[0]

        assert answered.finished[0].stored_tokens == BLOCK
        assert list_tokens(answered) == compute(tmp_path, prompt)


def test_all_answers_of_a_request_share_what_is_fetched(
    tmp_path: Path, names: list[str], wanted: str
) -> None:
    with storing(tmp_path) as run:
        answered = run.answer(ask(PROMPT, n=3))[0]

        assert list(answered.text.values()) == [wanted] * 3
        assert run.batcher.counters.computed_tokens < 700 - 512 + 10
        run.check_cells()


def test_one_that_could_follow_fetches_all_of_the_longer_prefix_that_is_stored(
    tmp_path: Path,
) -> None:
    """Not only what comes after its leader's prefix, which its own sequence does not have."""
    longer = [*PROMPT, *draw_prompt(random.Random(9), 700)]
    with storing(tmp_path) as run:
        run.answer(ask(longer))
    with storing(tmp_path, context_length=4096) as run:
        leader, other = ask([*PROMPT, *draw_prompt(random.Random(8), 100)]), ask(longer)
        run.answer(leader, other)

        assert run.answered[leader.id].finished[0].stored_tokens == 512
        assert run.answered[other.id].finished[0].stored_tokens == 1280
        assert run.batcher.counters.computed_tokens == (800 - 512) + (1400 - 1280)
        run.check_cells()


def test_what_is_fetched_twice_counts_once(
    tmp_path: Path, names: list[str], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch that yields its place after a part of its fetch loses what that had brought."""
    with storing(tmp_path, max_sequences=1, context_length=1024) as run:
        slow = begin_to_fetch(run, lane=Lane.BATCH)
        assert isinstance(run.batcher, StepBatcher)
        (branch,) = run.batcher._scheduler.admission.running
        while not branch.computed:
            assert isinstance(branch.fetch, Fetch)
            branch.fetch.wait(30)
            run.batcher._restorer.restore(1)
        assert branch.computed == BLOCK
        monkeypatch.setattr(branch.fetch, "take", lambda: None)  # the rest is slow
        fast = ask(draw_prompt(random.Random(2), 900), lane=Lane.INTERACTIVE)
        run.add(fast)
        run.finish()

        assert run.batcher.counters.preemptions == 1
        assert list_tokens(run.answered[slow]) == wanted
        finished = run.answered[slow].finished[0]
        assert (finished.cached_tokens, finished.stored_tokens) == (512, 512)
        run.check_cells()
