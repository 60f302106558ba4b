"""Random answers under constraints, over the real vocabulary of the tiny model."""

from __future__ import annotations

import ctypes
import gc
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from services.engine.backends.llamacpp.library import load_library
from services.engine.core import Constraint, Sampling
from services.engine.runner.requests.grammar_tokenizers import build_llamacpp_tokenizer
from services.engine.runner.requests.structured_output import ConstraintCompiler
from services.engine.runner.sampling.sampler import Sampler
from tests.conftest import TINY_GGUF

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["cat", "dog", "ünïcode"]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 40},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 3},
        "alive": {"type": ["boolean", "null"]},
    },
    "required": ["name", "kind", "legs", "tags", "alive"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Vocabulary:
    """The parts of a model that these tests need."""

    constraints: ConstraintCompiler
    size: int
    ends: frozenset[int]
    piece: Callable[[int], bytes]


@pytest.fixture(scope="module")
def tiny() -> Iterator[Vocabulary]:
    llama_cpp = load_library()  # which keeps the callback for the log alive
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(TINY_GGUF).encode(), params)
    assert model
    vocab = llama_cpp.llama_model_get_vocab(model)
    assert vocab
    size = llama_cpp.llama_vocab_n_tokens(vocab)
    ends = frozenset(t for t in range(size) if llama_cpp.llama_vocab_is_eog(vocab, t))
    buffer = ctypes.create_string_buffer(256)

    def piece(token: int) -> bytes:
        length = llama_cpp.llama_token_to_piece(vocab, token, buffer, 256, 0, True)
        return buffer.raw[:length]

    yield Vocabulary(
        ConstraintCompiler(lambda: build_llamacpp_tokenizer(vocab, ends)), size, ends, piece
    )
    gc.collect()  # the tokenizer points into the model
    llama_cpp.llama_model_free(model)


def walk(
    vocabulary: Vocabulary, constraint: Constraint, seed: int, **sampling: Any
) -> tuple[str, bool]:
    """A random answer of at most 600 tokens, and whether it has ended."""
    rng = np.random.default_rng(seed)
    state = vocabulary.constraints.compile(constraint)
    params = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, **sampling)
    sampler = Sampler(params, seed=seed, vocab_size=vocabulary.size, prompt=())
    text = b""
    for _ in range(600):
        if state.is_finished:
            return text.decode(), True
        logits = (rng.standard_normal(vocabulary.size) * 2).astype(np.float32)
        token = sampler.pick(logits, constraint=state)
        if token in vocabulary.ends:
            return text.decode(), True
        sampler.accept(token)
        state.accept(token)
        text += vocabulary.piece(token)
    return text.decode(errors="replace"), False


def fits_schema(answer: Any) -> bool:
    return (
        answer.keys() == SCHEMA["properties"].keys()  # type: ignore[attr-defined]
        and len(answer["name"]) <= 12
        and answer["kind"] in ("cat", "dog", "ünïcode")
        and isinstance(answer["legs"], int)
        and 0 <= answer["legs"] <= 40
        and len(answer["tags"]) <= 3
        and all(isinstance(tag, str) and len(tag) <= 5 for tag in answer["tags"])
        and answer["alive"] in (True, False, None)
    )


@pytest.mark.parametrize("seed", range(25))
def test_random_walks_through_a_schema_give_json_that_fits_it(tiny: Vocabulary, seed: int) -> None:
    text, ended = walk(tiny, Constraint("json_schema", json.dumps(SCHEMA)), seed)

    assert ended, text
    assert fits_schema(json.loads(text)), text


@pytest.mark.parametrize(
    ("kind", "source", "pattern"),
    [
        ("regex", r"[a-z]{2,5}-\d{3}", r"[a-z]{2,5}-\d{3}"),
        ("lark", 'start: "no" | /ye+s/ "!"', r"no|ye+s!"),
        ("gbnf", 'root ::= item+ ";"\nitem ::= [a-c] | "é"\n', r"[abcé]+;"),
    ],
    ids=["regex", "lark", "gbnf"],
)
def test_random_walks_through_a_grammar_match_it(
    tiny: Vocabulary, kind: Any, source: str, pattern: str
) -> None:
    for seed in range(10):
        text, ended = walk(tiny, Constraint(kind, source), seed)

        assert not ended or re.fullmatch(pattern, text), text


def test_a_greedy_answer_takes_the_best_permitted_token(tiny: Vocabulary) -> None:
    state = tiny.constraints.compile(Constraint("regex", "[0-9]+x"))
    permitted = np.flatnonzero(state.mask())
    logits = np.arange(tiny.size, dtype=np.float32)[::-1].copy()
    sampler = Sampler(Sampling(temperature=0), seed=0, vocab_size=tiny.size, prompt=())

    assert sampler.pick(logits, constraint=state) == permitted.min()


def test_allows_permits_every_token_of_the_mask(tiny: Vocabulary) -> None:
    state = tiny.constraints.compile(Constraint("json_schema", json.dumps(SCHEMA)))
    rng = np.random.default_rng(1)
    while not state.is_finished:
        mask = state.mask()
        sample = rng.integers(0, tiny.size, 30).tolist() + list(tiny.ends)

        assert all(state.allows(token) for token in sample if mask[token])
        assert not any(mask[token] for token in sample if not state.allows(token))

        state.accept(int(rng.choice(np.flatnonzero(mask))))
    assert set(np.flatnonzero(state.mask()).tolist()) == tiny.ends


def test_control_tokens_match_no_text(tiny: Vocabulary) -> None:
    state = tiny.constraints.compile(Constraint("regex", r"(.|\n)+"))
    shown = [token for token in np.flatnonzero(state.mask()).tolist() if token not in tiny.ends]

    assert not any(tiny.piece(token).startswith(b"<|") for token in shown)


def test_the_mask_of_forced_text_is_the_usual_token(tiny: Vocabulary) -> None:
    """llama.cpp tokenizes the text without a begin token and without a leading space."""
    state = tiny.constraints.compile(Constraint("regex", "counts to 100"))
    tokens = []
    while not state.is_finished:
        (token,) = np.flatnonzero(state.mask()).tolist()
        state.accept(token)
        tokens.append(token)

    assert b"".join(map(tiny.piece, tokens)) == b"counts to 100"
    assert len(tokens) < len("counts to 100")


def test_a_long_text_that_must_follow_is_written_to_its_end(tiny: Vocabulary) -> None:
    text = "The capital of France is Paris. Crème brûlée! " * 16
    written, _ = walk(tiny, Constraint("json_schema", json.dumps({"const": text})), seed=1)

    assert json.loads(written) == text
