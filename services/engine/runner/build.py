"""Put a runner together around a loaded backend."""

from __future__ import annotations

from services.engine.backends.base import Backend, Vocabulary
from services.engine.core import LoadConfig, MemoryPolicy
from services.engine.runner.ipc.command_queue import CommandQueue
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.loop import EngineLoop
from services.engine.runner.requests.input_processor import InputProcessor
from services.engine.runner.requests.structured_output import (
    ConstraintCompiler,
    build_llamacpp_tokenizer,
    build_tokenizer,
)
from services.engine.runner.stepping.kv.retention import BREAK_EVEN_ROWS
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.scheduler.scheduler import Scheduler


def build_loop(
    backend: Backend, config: LoadConfig, command_queue: CommandQueue, report_writer: ReportWriter
) -> EngineLoop:
    """Build the loop over a backend. Build and run it on the thread that opened the backend."""
    policy = backend.info.memory_policy
    # The cost was measured for attention on a CPU. On other devices, and for recurrent memories,
    # idle sequences stay until their cells are needed.
    idle_has_cost = backend.info.gpu_layers == 0 and policy is not MemoryPolicy.RECURRENT
    sequence_pool = SequencePool(
        capacity=backend.cells,
        id_count=backend.sequence_id_count,
        policy=policy,
        window=backend.info.window,
        break_even_rows=BREAK_EVEN_ROWS if idle_has_cost else None,
    )
    scheduler = Scheduler(
        sequence_pool,
        context_length=backend.info.context_length,
        max_sequences=config.max_sequences,
        max_step_tokens=len(backend.step.tokens),
        max_queued=config.max_queued,
        target_step_seconds=config.target_step_seconds,
    )
    return EngineLoop(
        backend, scheduler, sequence_pool, command_queue, report_writer, speculate=config.speculate
    )


def build_input_processor(backend: Backend, config: LoadConfig) -> InputProcessor:
    """Build the part that prepares requests for this backend."""
    return InputProcessor(
        backend.vocabulary,
        build_constraint_compiler(backend.vocabulary),
        context_length=backend.info.context_length,
        speculate=config.speculate,
    )


def build_constraint_compiler(vocabulary: Vocabulary) -> ConstraintCompiler:
    """Build the compiler for a vocabulary; its tokenizer is built when it is first used."""
    native = vocabulary.native
    if native is not None:
        return ConstraintCompiler(lambda: build_llamacpp_tokenizer(native, vocabulary.end_tokens))
    pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
    return ConstraintCompiler(lambda: build_tokenizer(pieces, ends=vocabulary.end_tokens))
