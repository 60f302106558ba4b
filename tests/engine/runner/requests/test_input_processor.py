"""What the runner refuses before a request is scheduled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.engine.backends import open_backend
from services.engine.messages.commands import Detokenize
from services.engine.runner.requests.grammar_tokenizers import build_tokenizer
from services.engine.runner.requests.input_processor import InputProcessor
from services.engine.runner.requests.structured_output import ConstraintCompiler
from services.shared.errors import InvalidRequest
from services.shared.limits import MAX_PROMPT_LOGPROBS, MAX_SUBMIT_BYTES
from tests.engine.runner.child_runner import fake_config, submit


@pytest.fixture
def processor() -> Iterator[InputProcessor]:
    """For a model whose context holds far more than one message of log-probabilities."""
    backend = open_backend(fake_config(), lambda _: None)
    compiler = ConstraintCompiler(lambda: build_tokenizer([], ends=backend.vocabulary.end_tokens))
    yield InputProcessor(backend.vocabulary, compiler, context_length=1 << 22)
    backend.close()


@pytest.mark.parametrize(
    ("tokens", "top", "wants_prompt", "is_accepted"),
    [
        (MAX_PROMPT_LOGPROBS // 21, 20, True, True),
        (MAX_PROMPT_LOGPROBS // 21 + 1, 20, True, False),
        (MAX_PROMPT_LOGPROBS + 1, 0, True, False),
        (MAX_PROMPT_LOGPROBS + 1, 20, False, True),
    ],
)
def test_the_log_probabilities_of_a_prompt_fit_one_message(
    processor: InputProcessor, tokens: int, top: int, wants_prompt: bool, is_accepted: bool
) -> None:
    """A message over 64 MiB breaks the session of all requests of an api worker."""
    request = submit(1, tokens=(5,) * tokens, top_logprobs=top, prompt_logprobs=wants_prompt)
    if is_accepted:
        processor.prepare(request, arrived_at=0.0)
        return
    with pytest.raises(InvalidRequest) as caught:
        processor.prepare(request, arrived_at=0.0)
    assert caught.value.param == "logprobs"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((97, 258), "tokens: there is no token 258; this model has 0 to 257"),
        ((97, -1), "tokens: there is no token -1; this model has 0 to 257"),
        ((97,) * (MAX_SUBMIT_BYTES + 1), "the text is too long: more than 8388608 bytes"),
    ],
    ids=["too large", "negative", "too long"],
)
def test_tokens_are_read_within_the_vocabulary_and_the_limit(
    processor: InputProcessor, tokens: tuple[int, ...], message: str
) -> None:
    answer = processor.detokenize(Detokenize(7, tokens))

    error = {"code": "invalid_request", "message": message, "param": "tokens"}
    assert (answer.id, answer.text, answer.error) == (7, "", error)
