"""Put a runner together: the batcher over a backend, and what prepares requests for it."""

from __future__ import annotations

from services.engine.backends import open_model
from services.engine.backends.base import Backend, OnProgress, Vocabulary
from services.engine.backends.mlx.loading import load
from services.engine.backends.pooling import Encoder
from services.engine.core import LoadConfig, MemoryPolicy, ModelInfo
from services.engine.runner.batcher import Batcher
from services.engine.runner.embedding.encoder_batcher import EncoderBatcher
from services.engine.runner.kvcache.identity import build_identity
from services.engine.runner.kvcache.store import PromptStore
from services.engine.runner.mlx.mlx_batcher import MlxBatcher
from services.engine.runner.requests.grammar_tokenizers import (
    build_llamacpp_tokenizer,
    build_tokenizer,
)
from services.engine.runner.requests.input_processor import InputProcessor
from services.engine.runner.requests.structured_output import ConstraintCompiler
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.prompt_finder import PromptFinder
from services.engine.runner.stepping.prompt_saver import PromptSaver
from services.engine.runner.stepping.scheduler.scheduler import Scheduler
from services.engine.runner.stepping.step_batcher import StepBatcher


def open_batcher(config: LoadConfig, on_progress: OnProgress) -> Batcher:
    """Load a model; the batcher is used on this thread. Raises ModelLoadFailed with a reason."""
    if config.backend == "mlx":
        return _open_mlx_batcher(config, on_progress)
    model = open_model(config, on_progress)
    if isinstance(model, Encoder):
        return EncoderBatcher(model)
    return build_step_batcher(model, config)


def build_step_batcher(backend: Backend, config: LoadConfig) -> StepBatcher:
    """Build our own batcher over a backend, with the store that the load asks for."""
    saves_whole = not (backend.info.memory_policy is MemoryPolicy.DENSE and backend.shares_cells)
    store = open_store(config, backend.info, saves_whole=saves_whole)
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
        stored_prefixes=PromptFinder(store) if store else None,
    )
    return StepBatcher(
        backend,
        scheduler,
        sequence_pool,
        speculate=config.speculate,
        store=store,
        saver=PromptSaver(backend, sequence_pool, store) if store else None,
    )


def _open_mlx_batcher(config: LoadConfig, on_progress: OnProgress) -> MlxBatcher:
    loaded = load(config, on_progress)
    saves_whole = loaded.info.memory_policy is not MemoryPolicy.DENSE
    return MlxBatcher(loaded, config, open_store(config, loaded.info, saves_whole=saves_whole))


def open_store(config: LoadConfig, info: ModelInfo, *, saves_whole: bool) -> PromptStore | None:
    """Open the store of computed prompts; None where the load has none.

    `saves_whole`: the backend saves whole sequences only; see Backend.save.
    """
    if config.cache is None:
        return None
    return PromptStore(config.cache, build_identity(config, info), saves_whole=saves_whole)


def build_input_processor(batcher: Batcher) -> InputProcessor:
    """Build the part that prepares requests for this batcher."""
    return InputProcessor(
        batcher.vocabulary,
        build_constraint_compiler(batcher.vocabulary),
        context_length=batcher.info.context_length,
        store=batcher.store,
        uses_cuts=batcher.uses_cuts,
    )


def build_constraint_compiler(vocabulary: Vocabulary) -> ConstraintCompiler:
    """Build the compiler for a vocabulary; its tokenizer is built when it is first used."""
    native = vocabulary.native
    if native is not None:
        return ConstraintCompiler(lambda: build_llamacpp_tokenizer(native, vocabulary.end_tokens))
    pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
    return ConstraintCompiler(
        lambda: build_tokenizer(
            pieces, ends=vocabulary.end_tokens, special=vocabulary.control_tokens
        )
    )
