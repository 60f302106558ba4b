"""Put a runner together: the batcher over a backend, and what prepares requests for it."""

from __future__ import annotations

from services.engine.backends import open_backend
from services.engine.backends.base import Backend, OnProgress, Vocabulary
from services.engine.core import LoadConfig, MemoryPolicy
from services.engine.runner.batcher import Batcher
from services.engine.runner.requests.input_processor import InputProcessor
from services.engine.runner.requests.structured_output import (
    ConstraintCompiler,
    build_llamacpp_tokenizer,
    build_tokenizer,
)
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.scheduler.scheduler import Scheduler
from services.engine.runner.stepping.step_batcher import StepBatcher


def open_batcher(config: LoadConfig, on_progress: OnProgress) -> Batcher:
    """Load a model; the batcher is used on this thread. Raises ModelLoadFailed with a reason."""
    return build_step_batcher(open_backend(config, on_progress), config)


def build_step_batcher(backend: Backend, config: LoadConfig) -> StepBatcher:
    """Build our own batcher over a backend."""
    policy = backend.info.memory_policy
    sequence_pool = SequencePool(
        capacity=backend.cells,
        id_count=backend.sequence_id_count,
        policy=policy,
        window=backend.info.window if policy is MemoryPolicy.WINDOW else 0,
        takes_checkpoints=backend.takes_checkpoints,
        shares_cells=backend.shares_cells,
    )
    scheduler = Scheduler(
        sequence_pool,
        context_length=backend.info.context_length,
        max_sequences=config.max_sequences,
        max_step_tokens=len(backend.step.tokens),
        max_queued=config.max_queued,
        target_step_seconds=config.target_step_seconds,
        row_costs=backend.row_costs,
    )
    return StepBatcher(backend, scheduler, sequence_pool, speculate=config.speculate)


def build_input_processor(batcher: Batcher) -> InputProcessor:
    """Build the part that prepares requests for this batcher."""
    return InputProcessor(
        batcher.vocabulary,
        build_constraint_compiler(batcher.vocabulary),
        context_length=batcher.info.context_length,
    )


def build_constraint_compiler(vocabulary: Vocabulary) -> ConstraintCompiler:
    """Build the compiler for a vocabulary; its tokenizer is built when it is first used."""
    native = vocabulary.native
    if native is not None:
        return ConstraintCompiler(lambda: build_llamacpp_tokenizer(native, vocabulary.end_tokens))
    pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
    return ConstraintCompiler(lambda: build_tokenizer(pieces, ends=vocabulary.end_tokens))
