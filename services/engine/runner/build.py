"""Put a runner together around a loaded backend."""

from __future__ import annotations

from services.engine.backends.base import Backend, Vocabulary
from services.engine.core import LoadConfig, MemoryPolicy
from services.engine.runner.ipc.command_queue import Inbox
from services.engine.runner.ipc.report_writer import Outbox
from services.engine.runner.loop import EngineLoop
from services.engine.runner.requests.input_processor import Intake
from services.engine.runner.requests.structured_output import (
    Constraints,
    tokenizer_of_llamacpp,
    tokenizer_of_pieces,
)
from services.engine.runner.stepping.kv.retention import WORTH_ROWS
from services.engine.runner.stepping.kv.sequence_pool import Sequences
from services.engine.runner.stepping.scheduler.scheduler import Scheduler


def build_loop(backend: Backend, config: LoadConfig, inbox: Inbox, outbox: Outbox) -> EngineLoop:
    """The loop over this backend. Call and run it on the thread that opened the backend."""
    policy = backend.info.memory_policy
    # Measured on a processor, for attention: elsewhere idle sequences stay until cells are needed.
    pays_for_idle = backend.info.gpu_layers == 0 and policy is not MemoryPolicy.RECURRENT
    sequences = Sequences(
        capacity=backend.cells,
        ids=backend.max_sequences,
        policy=policy,
        worth_rows=WORTH_ROWS if pays_for_idle else None,
    )
    scheduler = Scheduler(
        sequences,
        context_length=backend.info.context_length,
        most_running=config.max_sequences,
        most_tokens=len(backend.step.tokens),
        most_queued=config.max_queued,
        target_seconds=config.target_step_seconds,
    )
    return EngineLoop(backend, scheduler, sequences, inbox, outbox, speculates=config.speculate)


def build_intake(backend: Backend, config: LoadConfig) -> Intake:
    """What prepares requests for this backend."""
    return Intake(
        backend.vocabulary,
        constraints_of(backend.vocabulary),
        context_length=backend.info.context_length,
        speculates=config.speculate,
    )


def constraints_of(vocabulary: Vocabulary) -> Constraints:
    """Constraints over a vocabulary; nothing is built before the first one is used."""
    native = vocabulary.native
    if native is not None:
        return Constraints(lambda: tokenizer_of_llamacpp(native, vocabulary.end_tokens))
    pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
    return Constraints(lambda: tokenizer_of_pieces(pieces, ends=vocabulary.end_tokens))
