"""The dispatcher before and after its model is loaded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from services.engine.backends import open_backend
from services.engine.runner.ipc.command_queue import CommandQueue
from services.engine.runner.ipc.dispatcher import Dispatcher
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.requests.grammar_library import GrammarTokenizer
from services.engine.runner.requests.grammar_tokenizers import build_tokenizer
from services.engine.runner.requests.input_processor import InputProcessor
from services.engine.runner.requests.structured_output import ConstraintCompiler
from tests.engine.runner.child_runner import TIMEOUT_SECONDS, fake_config
from tests.engine.runner.ipc.dispatching import Setup, SlowVocabulary


@pytest.fixture
def unopened() -> Iterator[Setup]:
    """The state before the model is loaded."""
    backend = open_backend(fake_config(), lambda _: None)
    vocabulary = backend.vocabulary
    gate, building = threading.Event(), threading.Event()

    def tokenizer() -> GrammarTokenizer:
        building.set()
        assert gate.wait(TIMEOUT_SECONDS)
        pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
        return build_tokenizer(pieces, ends=vocabulary.end_tokens)

    input_processor = InputProcessor(
        SlowVocabulary(vocabulary, gate), ConstraintCompiler(tokenizer), context_length=64
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command_queue, report_writer = CommandQueue(), ReportWriter(ours)
        dispatcher = Dispatcher(command_queue, report_writer, max_queued=2, max_length=1 << 20)
        yield Setup(dispatcher, command_queue, theirs, input_processor, gate, building)
        gate.set()
        dispatcher.close()
        report_writer.close(TIMEOUT_SECONDS)
        backend.close()


@pytest.fixture
def opened(unopened: Setup) -> Setup:
    unopened.dispatcher.open(unopened.input_processor)
    return unopened
