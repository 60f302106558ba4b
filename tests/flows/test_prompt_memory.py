"""The second turn of a chat computes what is new, whatever happened since the first one.

For each shape of memory, through the whole stack: dense (blocks), sliding window and hybrid
(snapshots).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from services.engine.kv_entry import parse_entry_path
from tests.flows.stack import RunningStack
from tests.waiting import until

# What is computed beside the new tokens: the last tokens before the end, and a few at the place where
# the texts of the two turns meet; where the store has blocks, the rest of one.
REST = 8 + 8
STORED_REST = {"tiny": 256 + 8, "window": REST, "hybrid": REST}
FIRST = "The miller counts {0} sacks of flour and writes them into a book. " * 24
MIN_TOKENS = 64  # that chats have in common: their first words
SECOND = " And then the miller sleeps."


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, synthetic_model: Callable[[str], Path]
) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("stack")
    stack = RunningStack(folder / "data", SPINDLL_MAX_SEQUENCES="2")
    try:
        assert stack.up().returncode == 0, stack.logs()
        for name in ("window", "hybrid"):
            path = synthetic_model(f"tiny-{name}")
            assert stack.cli("import", str(path), "--name", name).returncode == 0
        yield stack
    finally:
        stack.down()


class Chat:
    """A completion and the one that goes on after it. Each chat begins with other words."""

    def __init__(self, stack: RunningStack, model: str, about: str) -> None:
        self._stack = stack
        self.model = model
        self._text = FIRST.format(about)
        self._first_tokens = 0

    def begin(self) -> None:
        """Compute the first turn, and wait until it is stored."""
        before = count_entries(self._stack)
        self._first_tokens, cached = self._complete()
        assert self._first_tokens > 2 * STORED_REST["tiny"]
        assert cached < MIN_TOKENS
        entries = self._first_tokens // 256 if self.model == "tiny" else 1
        until(lambda: count_entries(self._stack) >= before + entries, "the turn was not stored")

    def go_on(self) -> int:
        """The tokens that the second turn computes beside its new ones."""
        self._text += SECOND
        tokens, cached = self._complete()
        return tokens - cached - (tokens - self._first_tokens)

    def _complete(self) -> tuple[int, int]:
        body = {"model": self.model, "prompt": self._text, "max_tokens": 1, "temperature": 0}
        with self._stack.http() as http:
            answer = http.post("/v1/completions", json=body).raise_for_status().json()
        self._text += answer["choices"][0]["text"]
        usage = answer["usage"]
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def count_entries(stack: RunningStack) -> int:
    return sum(parse_entry_path(path) is not None for path in stack.data_dir.glob("kvcache/??/*"))


@pytest.mark.parametrize("model", STORED_REST)
def test_the_second_turn_computes_what_is_new(stack: RunningStack, model: str) -> None:
    chat = Chat(stack, model, "one")
    chat.begin()

    assert chat.go_on() <= REST


@pytest.mark.parametrize("model", STORED_REST)
def test_also_after_its_model_was_swapped(stack: RunningStack, model: str) -> None:
    chat = Chat(stack, model, "twenty")
    chat.begin()
    other = "window" if model == "tiny" else "tiny"
    with stack.http() as http:
        http.post(f"/v1/models/{model}/unload", json={}).raise_for_status()
    Chat(stack, other, f"{model} and").begin()

    assert chat.go_on() <= STORED_REST[model]


def test_also_after_everything_was_killed_and_the_answer_is_the_same(stack: RunningStack) -> None:
    chats = [Chat(stack, model, "three hundred") for model in STORED_REST]
    for chat in chats:
        chat.begin()
    question = FIRST.format("forty")
    answer = stack.ask(question)
    # The supervisor first: it would start the others again.
    for pid in (stack.state().pid, *(process.pid for process in stack.list_processes())):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not stack.list_processes(), "a process is still there")
    assert stack.up().returncode == 0, stack.logs()

    for chat in chats:
        assert chat.go_on() <= STORED_REST[chat.model]
    assert stack.ask(question) == answer
