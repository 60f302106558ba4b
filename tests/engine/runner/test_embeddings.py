"""Embeddings and ranks of a real runner, beside answers, compared with llama-cpp-python's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.engine.core import FinishReason, Stopping
from services.engine.messages.commands import Cancel, Embed, EmbedInput
from services.engine.messages.reports import Embedded, MemoryAdded, Ready
from tests.conftest import TINY_GGUF
from tests.engine.runner.child_runner import ChildRunner, config, prompt_for, submit, text_for
from tests.models import poolers
from tests.models.llama import library

TEXTS = (
    "paris is the capital of france",
    "rome",
    "the cat is a dog? the cat is the capital of italy.",
    "a b c",
)
# A decoder's attention adds up in another order in a batch of 64 rows and more, over cells of 16
# bits: so far the vectors of a text may differ. Measured: 3e-4.
DECODER_TOLERANCE = 1e-3
Floats = NDArray[np.float32]
Find = Callable[[str], Path]


def embed(id_: int, *texts: str, **fields: Any) -> Embed:
    return Embed(id=id_, inputs=tuple(EmbedInput(text) for text in texts), **fields)


def rows(report: Embedded) -> Floats:
    assert report.error is None, report.error
    return np.frombuffer(report.vectors, "<f4").reshape(-1, report.dimensions)


def error_of(report: Embedded) -> tuple[Any, Any]:
    assert report.error is not None
    return report.error["code"], report.error.get("param")


@pytest.fixture(scope="module", params=["bert-mean", "bert-cls", "qwen3-last"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def runner(name: str, pooling_model: Find) -> Iterator[ChildRunner]:
    with ChildRunner(config(pooling_model(name), embeds=True)) as running:
        running.wait_for_first(Ready)
        yield running


def reference(path: Path) -> Floats:
    """The same texts through llama-cpp-python's own high-level class."""
    import llama_cpp

    library()  # registers the compute modules
    llama = llama_cpp.Llama(
        str(path),
        embedding=True,
        n_ctx=512,
        n_ubatch=512,
        n_threads=1,
        flash_attn=True,  # as the runner, where it is the default
        verbose=False,
    )
    try:
        return np.array(llama.embed(list(TEXTS), normalize=True), np.float32)
    finally:
        llama.close()


def test_embeddings_equal_those_of_llama_cpp_python(
    runner: ChildRunner, name: str, pooling_model: Find
) -> None:
    ours = rows(runner.embed(embed(1, *TEXTS)))
    theirs = reference(pooling_model(name))

    assert ours.shape == theirs.shape == (len(TEXTS), poolers.DIMENSIONS)
    # Measured: at most 3e-8, the last bit of numbers below 1.
    assert np.abs(ours - theirs).max() < 1e-6
    # The models tell texts apart, so that equal rows mean something.
    assert np.abs(ours[0] - ours[1]).max() > 0.01


def test_a_batch_equals_its_texts_one_by_one(runner: ChildRunner) -> None:
    together = rows(runner.embed(embed(11, *TEXTS)))
    alone = [rows(runner.embed(embed(12 + n, text)))[0] for n, text in enumerate(TEXTS)]

    assert np.abs(together - np.stack(alone)).max() < 1e-6


def test_vectors_have_length_one_unless_they_are_wanted_raw(runner: ChildRunner) -> None:
    unit = rows(runner.embed(embed(21, *TEXTS)))
    raw = rows(runner.embed(embed(22, *TEXTS, normalize=False)))
    cut = rows(runner.embed(embed(23, *TEXTS, dimensions=8)))

    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert np.allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), unit, atol=1e-6)
    head = raw[:, :8]
    assert np.allclose(cut, head / np.linalg.norm(head, axis=1, keepdims=True), atol=1e-6)


def test_tokens_give_the_vector_of_their_text(runner: ChildRunner, name: str) -> None:
    tokens = (2, 42, 44, 3) if name.startswith("bert") else (72, 300, 81)
    one = rows(runner.embed(Embed(id=31, inputs=(EmbedInput(tokens=tokens),))))
    report = runner.embed(Embed(id=32, inputs=(EmbedInput(tokens=tokens), EmbedInput("rome"))))

    assert np.abs(rows(report)[0] - one[0]).max() < 1e-6
    assert report.tokens[0] == len(tokens)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"inputs": (EmbedInput(tokens=(1 << 20,)),)}, ("invalid_request", "input")),
        ({"inputs": (EmbedInput(tokens=()),)}, ("invalid_request", "input")),
        ({"inputs": ()}, ("invalid_request", "input")),
        ({"inputs": (EmbedInput("a"),), "dimensions": 65}, ("invalid_request", "dimensions")),
        ({"inputs": (EmbedInput("a"),), "query": "b"}, ("invalid_request", "model")),
        ({"inputs": (EmbedInput("a " * 5000),)}, ("context_length_exceeded", "input")),
    ],
    ids=["unknown token", "no tokens", "no texts", "dimensions", "rank", "too long"],
)
def test_what_cannot_be_embedded_is_refused_by_name(
    runner: ChildRunner, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert error_of(runner.embed(Embed(id=41 + len(runner.reports), **fields))) == expected


def test_a_text_that_is_too_long_is_shortened_where_that_is_wanted(
    runner: ChildRunner, name: str
) -> None:
    limit = poolers.BERT_CONTEXT if name.startswith("bert") else 2048
    long = runner.embed(embed(51, "a " * 5000, truncate=True))

    assert long.tokens == (limit,)
    if name.startswith("bert"):  # it keeps the separator at its end
        short = runner.embed(embed(52, "a " * (limit - 2)))
        assert np.abs(rows(long) - rows(short)).max() < 1e-6


def test_an_encoder_refuses_chats_in_words(pooling_model: Find) -> None:
    with ChildRunner(config(pooling_model("bert-mean"), embeds=True)) as runner:
        info = runner.wait_for_first(Ready).info
        refused = runner.complete(submit(1, "hello"))

    assert refused.failed is not None
    assert refused.error_code == "invalid_request"
    assert "it is an encoder" in str(refused.failed.error["message"])
    assert info.context_length == poolers.BERT_CONTEXT


def test_a_chat_model_embeds_while_it_answers() -> None:
    with ChildRunner(config()) as runner:
        first = rows(runner.embed(embed(1, *TEXTS)))
        memory = runner.wait_for_first(MemoryAdded)
        names = ("fact-1", "fact-26", "count-50")
        for number, name in enumerate(names):
            stopping = Stopping(max_tokens=256)
            runner.send(submit(10 + number, prompt_for(name), stopping=stopping))
            runner.send(embed(20 + number, *TEXTS * 5))
        answers = [runner.wait_for_answer(10 + n).text[0] for n in range(len(names))]
        later = [rows(runner.wait_for_embedded(20 + n)) for n in range(len(names))]

    assert memory.pool_bytes["host"] > 0
    assert answers == [text_for(name) for name in names]
    for vectors in later:
        assert np.abs(vectors - np.tile(first, (5, 1))).max() < DECODER_TOLERANCE


def test_answers_and_embeddings_take_turns() -> None:
    """Neither waits for the end of the other: a long answer ends among many embeddings."""
    with ChildRunner(config()) as runner:
        runner.send(embed(1, *["a b c d e f g h " * 60] * 30))
        runner.send(submit(2, prompt_for("fact-1")))
        answer = runner.wait_for_answer(2)
        embedded_before = any(isinstance(report, Embedded) for report in runner.reports)
        assert rows(runner.wait_for_embedded(1)).shape[0] == 30

    assert answer.reason is FinishReason.STOP
    assert not embedded_before


def test_a_cancelled_embedding_is_not_reported() -> None:
    with ChildRunner(config()) as runner:
        runner.send(embed(1, *["a b c d e f g h " * 60] * 30))
        runner.send(Cancel((1,)))
        rows(runner.embed(embed(2, "a")))

    assert [r.id for r in runner.reports if isinstance(r, Embedded)] == [2]


def test_a_long_text_of_a_decoder_equals_the_same_text_at_once(pooling_model: Find) -> None:
    """It is computed in parts of 512 tokens, between which answers go on."""
    text = "the quick brown fox jumps over the lazy dog " * 60
    path = pooling_model("qwen3-last")
    with ChildRunner(config(path, embeds=True)) as runner:
        report = runner.embed(embed(1, text))
    import llama_cpp

    library()
    llama = llama_cpp.Llama(
        str(path), embedding=True, n_ctx=2048, n_batch=2048, n_ubatch=2048, n_threads=1,
        verbose=False,
    )  # fmt: skip
    whole = np.array(llama.embed(text, normalize=True), np.float32)
    llama.close()

    assert report.tokens[0] > 1024
    # Other sizes of matrices add in another order, and the cells hold 16 bits.
    assert np.abs(rows(report)[0] - whole).max() < 2e-3


@pytest.mark.parametrize("name", ["bert-rank", "qwen3-rank"])
def test_a_ranking_model_scores_documents_as_one_by_one(name: str, pooling_model: Find) -> None:
    with ChildRunner(config(pooling_model(name), embeds=True)) as runner:
        together = runner.embed(embed(1, *TEXTS, query="capital"))
        alone = [
            float(rows(runner.embed(embed(2 + n, text, query="capital")))[0, 0])
            for n, text in enumerate(TEXTS)
        ]
        other = rows(runner.embed(embed(9, *TEXTS, query="a dog")))
        refused = runner.embed(embed(10, *TEXTS))

    scores = rows(together)[:, 0]
    assert together.dimensions == 1
    assert together.is_probability == (name == "qwen3-rank")
    assert np.abs(scores - alone).max() < (1e-6 if name == "bert-rank" else DECODER_TOLERANCE)
    assert np.ptp(scores) > 0.001
    assert np.abs(scores - other[:, 0]).max() > 0.001
    assert error_of(refused) == ("invalid_request", "model")


def test_a_pair_is_built_as_the_model_was_trained(pooling_model: Find) -> None:
    """BERT: [CLS] query [SEP] document [SEP]; with a template, texts have no control tokens."""
    with ChildRunner(config(pooling_model("bert-rank"), embeds=True)) as runner:
        pair = runner.embed(embed(1, "rome", query="paris italy"))
    with ChildRunner(config(pooling_model("qwen3-rank"), embeds=True)) as runner:
        plain = runner.embed(embed(1, "x", query="<|im_end|>"))

    assert pair.tokens == (1 + 2 + 1 + 1 + 1,)
    assert plain.tokens[0] > 5  # the three of the template, "x", and the text of the marker


def test_a_document_that_is_too_long_is_shortened_inside_the_pair(pooling_model: Find) -> None:
    with ChildRunner(config(pooling_model("bert-rank"), embeds=True)) as runner:
        refused = runner.embed(embed(1, "a " * 100, query="rome"))
        cut = runner.embed(embed(2, "a " * 100, query="rome", truncate=True))
        no_room = runner.embed(embed(3, "a", query="rome " * 100, truncate=True))

    assert error_of(refused) == ("context_length_exceeded", "documents")
    assert cut.tokens == (poolers.BERT_CONTEXT,)
    assert error_of(no_room) == ("context_length_exceeded", "query")


@pytest.mark.parametrize("path", [TINY_GGUF], ids=["tiny"])
def test_the_load_of_a_model_that_embeds_counts_the_memory_of_both_contexts(path: Path) -> None:
    with ChildRunner(config(path)) as runner:
        alone = runner.wait_for_first(Ready).info
        runner.embed(embed(1, "a"))
        added = runner.wait_for_first(MemoryAdded).pool_bytes
    with ChildRunner(config(path, embeds=True)) as runner:
        both = runner.wait_for_first(Ready).info
    with ChildRunner(config(path, embeds=True), "--estimate") as runner:
        estimate = runner.wait_for_first(Ready).info

    assert both.pool_bytes["host"] == pytest.approx(
        alone.pool_bytes["host"] + added["host"], abs=1 << 15
    )
    assert estimate.pool_bytes == both.pool_bytes
    assert estimate.embedding_bytes == both.embedding_bytes == added
    assert alone.embedding_bytes == {}


@pytest.mark.parametrize(
    ("name", "flash_attention"),
    [("bert-mean", None), ("qwen3-last", None), ("qwen3-last", False)],
    ids=["encoder", "decoder", "decoder without flash attention"],
)
def test_a_text_without_finite_numbers_fails_alone_however_often_it_comes(
    name: str, flash_attention: bool | None, pooling_model: Find, tmp_path: Path
) -> None:
    """Neither its batch, nor the process, nor what is left of it in the memory spoils others."""
    good, bad = (2, 41, 3), (2, 40, 3)
    path = poolers.spoil(pooling_model(name), tmp_path / "spoiled.gguf", token=40)
    load = config(path, embeds=True, flash_attention=flash_attention)
    with ChildRunner(load) as runner:
        first = rows(runner.embed(embed_tokens(1, good)))
        for id_ in range(10, 16):
            runner.send(embed_tokens(id_, bad))
            runner.send(embed_tokens(id_ + 10, good))
        failed = [error_of(runner.wait_for_embedded(id_)) for id_ in range(10, 16)]
        others = [rows(runner.wait_for_embedded(id_ + 10)) for id_ in range(10, 16)]
        for id_ in range(30, 35):
            runner.embed(embed_tokens(id_, bad))
        last = rows(runner.embed(embed_tokens(40, good)))

    assert failed == [("internal_error", None)] * 6
    for row in (*others, last):
        assert np.abs(row - first).max() < DECODER_TOLERANCE


def embed_tokens(id_: int, *texts: tuple[int, ...]) -> Embed:
    return Embed(id=id_, inputs=tuple(EmbedInput(tokens=text) for text in texts))
