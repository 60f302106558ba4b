"""llguidance by its C interface: other threads continue, and memory is freed in any order."""

from __future__ import annotations

import gc
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.engine.core import Constraint
from services.engine.runner.requests.grammar_library import GrammarMatcher, GrammarTokenizer
from services.engine.runner.requests.grammar_tokenizers import build_tokenizer
from services.engine.runner.requests.structured_output import ConstraintCompiler

VOCABULARY = 50_000
TIMEOUT_SECONDS = 30.0
GRAMMAR = '{"grammars":[{"name":"regex","lark_grammar":"start: /ab*c?/"}]}'


def build_pieces(count: int) -> list[bytes]:
    """One token per byte, then random words."""
    rng = random.Random(0)
    words: dict[bytes, None] = {bytes([byte]): None for byte in range(256)}
    while len(words) < count:
        words[bytes(rng.choices(b" etaoinshrdlu", k=rng.randint(2, 9)))] = None
    return list(words)


def test_other_threads_continue_while_the_first_constraint_is_compiled() -> None:
    pieces = [*build_pieces(VOCABULARY), b"</s>"]
    compiler = ConstraintCompiler(lambda: build_tokenizer(pieces, ends=(VOCABULARY,)))
    turns = 0
    is_over = False

    def count() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            time.sleep(0)  # gives up the interpreter's lock, as the work of a loop's step does

    counter = threading.Thread(target=count)
    counter.start()
    compiler.compile(Constraint("regex", "ab*c?"))
    is_over = True
    counter.join()

    # 2 to 60 turns if the lock is held meanwhile, because the Python code before and after yields.
    assert turns > 500


def test_a_constraint_that_takes_long_to_compile_delays_no_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = ConstraintCompiler(lambda: build_tokenizer([b"a", b"b", b"</s>"], ends=(2,)))
    compiler.compile(Constraint("regex", "[ab]+"))
    may_continue, build = threading.Event(), GrammarTokenizer.build_matcher
    began = threading.Event()

    def build_slowly(*arguments: Any) -> GrammarMatcher:
        began.set()
        may_continue.wait(TIMEOUT_SECONDS)
        return build(*arguments)

    monkeypatch.setattr(GrammarTokenizer, "build_matcher", build_slowly)
    with ThreadPoolExecutor(2) as executor:
        slow = executor.submit(compiler.compile, Constraint("regex", "a+"))
        began.wait(TIMEOUT_SECONDS)
        executor.submit(compiler.compile, Constraint("regex", "[ab]+")).result(TIMEOUT_SECONDS)
        assert not slow.done()
        may_continue.set()
        assert slow.result().allows(0)


def test_a_matcher_outlives_the_last_reference_to_its_tokenizer() -> None:
    tokenizer = GrammarTokenizer([b"a", b"b", b"c", b"\xff</s>"], ends=(3,))
    matcher = tokenizer.build_matcher(GRAMMAR)
    copy = matcher.copy()
    del tokenizer, matcher
    gc.collect()

    assert copy.get_error() is None
    assert copy.consume(0)
    assert [copy.allows(token) for token in range(4)] == [False, True, True, True]
    assert copy.compute_mask()[0] == 0b1110


def test_an_error_is_reported_and_stays() -> None:
    tokenizer = GrammarTokenizer([b"a", b"\xff</s>"], ends=(1,))

    matcher = tokenizer.build_matcher(GRAMMAR.replace("start", "begin"))

    assert "start" in (matcher.get_error() or "")
    assert not matcher.allows(0)
    assert not matcher.consume(0)
    assert matcher.is_stopped()


def test_a_vocabulary_without_its_end_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="out of range"):
        GrammarTokenizer([b"a"], ends=(7,))
