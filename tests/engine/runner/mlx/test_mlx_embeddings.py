"""Vectors of MLX models: those of the GGUF, the same in a batch as alone, pooled as told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.engine.backends.errors import BackendError
from services.engine.backends.pooling import Vectors
from services.engine.core import Counters, TextPiece
from services.engine.messages.commands import Embed, EmbedInput
from services.engine.messages.reports import MemoryAdded
from services.engine.runner.batcher import Batcher
from services.engine.runner.build import open_batcher
from services.engine.runner.embedding.embedding_batcher import (
    EmbeddingBatcher,
    EmbeddingFinished,
    EmbeddingRequest,
)
from services.engine.runner.embedding.embedding_processor import EmbeddingProcessor
from services.shared.errors import InvalidRequest
from tests.conftest import TINY_MLX
from tests.contracts.batching import BatchRun
from tests.engine.backends.mlx.mlx_tests import build_config
from tests.engine.runner.child_runner import ChildRunner, config
from tests.engine.runner.mlx.mlx_requests import LONG, build
from tests.models.random_mlx import write_random_mlx

TEXTS = (
    "paris is the capital of france",
    "rome",
    "the cat is a dog? the cat is the capital of italy.",
    "a b c",
    LONG[:200],
)
# Of vectors of length one. Both libraries compute in 16 bits, and add up in another order: 9e-4 was
# measured. MLX does so where a text is computed in parts. A batch was equal to the bit.
GGUF_TOLERANCE = 3e-3
PARTS_TOLERANCE = 0.02
BATCH_TOLERANCE = 1e-4
Make = Callable[..., Batcher]


@pytest.fixture
def open_mlx() -> Iterator[Make]:
    opened: list[Batcher] = []

    def make(folder: Path = TINY_MLX, **changes: Any) -> Batcher:
        opened.append(open_batcher(build_config(folder, **changes), lambda _: None))
        return opened[-1]

    yield make
    for batcher in opened:
        batcher.close()


def write_pooling(folder: Path, *modes: str) -> Path:
    """The tiny model, with what sentence-transformers says about pooling."""
    shutil.copytree(TINY_MLX, folder)
    (folder / "1_Pooling").mkdir()
    settings = {f"pooling_mode_{mode}": mode in modes for mode in ("mean_tokens", "max_tokens")}
    settings |= {f"pooling_mode_{mode}": True for mode in modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return folder


def tokenize(batcher: Batcher, text: str) -> list[int]:
    return batcher.vocabulary.tokenize((TextPiece(text, True),), add_special=True)


def embed(batcher: Batcher, *texts: str) -> Vectors:
    """Vectors of length one, computed as the runner computes them."""
    assert batcher.pooled is not None
    pooling = EmbeddingBatcher(batcher.pooled, Counters(), max_queued=4)
    pooling.add(EmbeddingRequest(1, [tokenize(batcher, text) for text in texts]))
    events = []
    while not pooling.is_idle:
        events += pooling.step()
    (event,) = events
    assert isinstance(event, EmbeddingFinished)
    return np.asarray(event.rows / np.linalg.norm(event.rows, axis=1, keepdims=True), np.float32)


def largest_difference(one: Vectors, other: Vectors) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max())


def test_vectors_are_those_of_the_gguf(open_mlx: Make) -> None:
    gguf = open_batcher(config(context_length=512), lambda _: None)
    try:
        wanted = embed(gguf, *TEXTS)
    finally:
        gguf.close()

    assert largest_difference(embed(open_mlx(), *TEXTS), wanted) < GGUF_TOLERANCE
    # The model tells texts apart, so that equal rows mean something.
    assert largest_difference(wanted[:1], wanted[1:2]) > 20 * GGUF_TOLERANCE


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_a_batch_equals_its_texts_one_by_one(open_mlx: Make, tmp_path: Path, pooling: str) -> None:
    mode = {"last": "lasttoken", "mean": "mean_tokens", "cls": "cls_token"}[pooling]
    batcher = open_mlx(write_pooling(tmp_path / "model", mode))
    assert batcher.pooled is not None
    assert batcher.pooled.facts.pooling == pooling

    together = embed(batcher, *TEXTS)
    alone = np.concatenate([embed(batcher, text) for text in TEXTS])

    assert largest_difference(together, alone) < BATCH_TOLERANCE


def test_a_text_that_is_computed_at_once_is_bounded(open_mlx: Make, tmp_path: Path) -> None:
    last = open_mlx(context_length=4096).pooled
    mean = open_mlx(write_pooling(tmp_path / "model", "mean_tokens"), context_length=4096).pooled
    assert last is not None
    assert mean is not None

    assert (last.facts.max_tokens, last.facts.takes_parts) == (4096, True)
    assert (mean.facts.max_tokens, mean.facts.takes_parts) == (2048, False)


def test_the_mean_is_that_of_the_states_of_all_tokens(open_mlx: Make, tmp_path: Path) -> None:
    last, mean = open_mlx(), open_mlx(write_pooling(tmp_path / "model", "mean_tokens"))
    assert last.pooled is not None
    tokens = tokenize(last, TEXTS[2])
    context = last.pooled.open()
    context.clear()
    states = np.concatenate([context.run([[token]]) for token in tokens])
    wanted = states.mean(axis=0, keepdims=True)

    vector = embed(mean, TEXTS[2])

    assert largest_difference(vector, wanted / np.linalg.norm(wanted)) < PARTS_TOLERANCE


@pytest.mark.parametrize("model", ["tiny", "mlx-window", "mlx-recurrent"])
def test_a_text_in_parts_gives_the_vector_of_the_whole(
    open_mlx: Make, tmp_path: Path, model: str
) -> None:
    folder = TINY_MLX if model == "tiny" else write_random_mlx(model, tmp_path / model)
    batcher = open_mlx(folder)
    assert batcher.pooled is not None
    tokens = tokenize(batcher, LONG[:300])
    context = batcher.pooled.open()
    context.clear()
    whole = context.run([tokens, tokens[:7]])[:1]
    context.clear()
    for start in range(0, len(tokens), 40):
        vector = context.run([tokens[start : start + 40]])

    vector, whole = vector / np.linalg.norm(vector), whole / np.linalg.norm(whole)
    assert largest_difference(vector, whole) < PARTS_TOLERANCE


def test_texts_are_embedded_while_an_answer_is_written(open_mlx: Make) -> None:
    batcher = open_mlx()
    wanted = embed(batcher, *TEXTS)
    run = BatchRun(batcher)
    text = run.answer(build(1, "a", 20))[0].text
    run.add(build(2, "a", 20, no_cache=True))
    for _ in range(4):
        run.step()

    assert largest_difference(embed(batcher, *TEXTS), wanted) == 0
    run.finish()
    assert run.answered[2].text == text


@pytest.mark.parametrize("modes", [("max_tokens",), ("mean_tokens", "max_tokens")])
def test_a_pooling_that_is_not_known_is_refused(
    open_mlx: Make, tmp_path: Path, modes: tuple[str, ...]
) -> None:
    batcher = open_mlx(write_pooling(tmp_path / "model", *modes))
    processor = EmbeddingProcessor(batcher.vocabulary, batcher.pooled)

    with pytest.raises(InvalidRequest, match="computes no embeddings"):
        processor.prepare(Embed(id=1, inputs=(EmbedInput("a"),)))


def test_a_model_of_attention_in_both_directions_computes_none(
    open_mlx: Make, tmp_path: Path
) -> None:
    """mlx-lm would compute it as if it were causal."""
    folder = tmp_path / "model"
    shutil.copytree(TINY_MLX, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["use_bidirectional_attention"] = True
    (folder / "config.json").write_text(json.dumps(settings))

    assert open_mlx(folder).pooled is None


def test_a_model_with_a_layer_behind_its_pooling_computes_none(
    open_mlx: Make, tmp_path: Path
) -> None:
    """Without it, its vectors would be others."""
    folder = write_pooling(tmp_path / "model", "lasttoken")
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text("{}")

    assert open_mlx(folder).pooled is None


@pytest.mark.parametrize(
    "parts",
    [[], [[]], [[1]] * 65, [[1] * 513], [[1024]], [[-1]]],
    ids=["none", "empty", "too many", "too long", "unknown token", "negative token"],
)
def test_what_the_facts_do_not_allow_is_refused(open_mlx: Make, parts: list[list[int]]) -> None:
    pooled = open_mlx().pooled
    assert pooled is not None
    context = pooled.open()
    context.clear()

    with pytest.raises(BackendError):
        context.run(parts)


def test_the_memory_of_the_context_is_told(open_mlx: Make) -> None:
    pooled = open_mlx().pooled
    assert pooled is not None
    assert not pooled.is_open

    assert pooled.open().pool_bytes["host"] > 512 * 2048
    assert pooled.is_open


def test_a_runner_process_embeds_and_reports_the_memory(open_mlx: Make) -> None:
    wanted = embed(open_mlx(), *TEXTS)
    with ChildRunner(build_config()) as runner:
        report = runner.embed(Embed(id=1, inputs=tuple(EmbedInput(text) for text in TEXTS)))
        added = runner.wait_for_first(MemoryAdded)

    assert report.error is None
    vectors = np.frombuffer(report.vectors, "<f4").reshape(-1, report.dimensions)
    assert largest_difference(vectors, wanted) < BATCH_TOLERANCE
    assert added.pool_bytes["host"] > 0
