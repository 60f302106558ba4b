"""The backend contract, implemented with llama.cpp."""

from __future__ import annotations

from services.engine.backends.base import OnProgress, Step
from services.engine.backends.llamacpp.context import LlamaContext
from services.engine.backends.llamacpp.library import capture_log, load_library
from services.engine.backends.llamacpp.model import LlamaModel
from services.engine.backends.llamacpp.settings import count_offloaded_layers, place_layers
from services.engine.backends.llamacpp.sizes import Sizes, parse_sizes
from services.engine.core import LoadConfig, MemoryPolicy, ModelInfo, RowCosts

# A row looks at the mask of every cell in use, in every layer and for every head: 6 144 idle cells
# made steps 11 to 16 % longer (1 to 16 rows, 2 threads, shape of Qwen2.5-0.5B).
_MASK_LOOK_SECONDS = 2e-9


class LlamaBackend:
    """A GGUF model and one context."""

    def __init__(self, model: LlamaModel, context: LlamaContext, info: ModelInfo) -> None:
        self.info = info
        self.vocabulary = model.vocabulary
        self.step: Step = context.step
        self.sequence_id_count = context.sequence_id_count
        self.max_outputs = context.max_outputs
        # A purely recurrent memory has one state per sequence, and no cells that could run out.
        self.cells = context.cells if model.has_cells else context.cells * context.sequence_id_count
        self._model = model
        self._context = context
        self.row_costs = _build_row_costs(model, context, info)
        # By an empty part at their present length, and only where no layer loses cells that were
        # before a window: llama.cpp does not tell for a hybrid memory which ones it has lost.
        self.takes_checkpoints = model.is_recurrent and model.window == 0
        self.shares_cells = context.shares_cells
        # Bound directly, because a step calls these many times per second.
        self.run = context.run
        self.logits = context.logits
        self.share = context.share
        self.first_position = context.first_position
        self.cut = context.cut
        self.drop = context.drop
        self.save = context.save
        self.load = context.load

    @classmethod
    def open(cls, config: LoadConfig, on_progress: OnProgress) -> LlamaBackend:
        """Read the weights, create the context, find the memory policy. Raises ModelLoadFailed."""
        lib = load_library()
        with capture_log() as lines:
            model = LlamaModel(lib, config, on_progress)
            try:
                context = LlamaContext(lib, model, config)
            except BaseException:
                model.close()
                raise
        policy = _probe_policy(model, context)
        return cls(
            model,
            context,
            build_model_info(model, context, config, policy, parse_sizes(lines, config.devices)),
        )

    def close(self) -> None:
        """Free context and weights. Safe to call twice."""
        self._context.close()
        self._model.close()


def build_model_info(
    model: LlamaModel,
    context: LlamaContext,
    config: LoadConfig,
    policy: MemoryPolicy,
    sizes: Sizes,
) -> ModelInfo:
    """Describe a load or a dry run for the front."""
    import llama_cpp

    layers = place_layers(config, model.layers)
    return ModelInfo(
        architecture=model.architecture,
        vocab_size=model.vocabulary.size,
        context_length=context.context_length,
        trained_context_length=model.trained_context_length,
        short_context_length=model.short_context_length,
        max_sequences=config.max_sequences,
        memory_policy=policy,
        window=model.window,
        gpu_layers=count_offloaded_layers(config, model.layers),
        backend=f"llama.cpp {llama_cpp.__version__}",
        weights_bytes=model.weights_bytes,
        kv_bytes=sizes.kv_bytes,
        compute_bytes=sizes.compute_bytes,
        pool_bytes=sizes.pool_bytes(weights_bytes=model.weights_bytes, layers=layers),
    )


def _build_row_costs(model: LlamaModel, context: LlamaContext, info: ModelInfo) -> RowCosts:
    if info.gpu_layers:
        return RowCosts()
    has_idle_cells = context.shares_cells and info.memory_policy is not MemoryPolicy.RECURRENT
    looks = model.layers * model.heads / context.threads
    return RowCosts(
        tile_rows=64,  # GGML_FA_TILE_Q: with fewer rows, attention is computed row by row
        single_row_cost=8,
        prompt_seconds=0.05,
        idle_cell_seconds=_MASK_LOOK_SECONDS * looks if has_idle_cells else 0.0,
    )


def read_policy(model: LlamaModel) -> MemoryPolicy:
    """The memory policy that the model's header suggests."""
    if model.is_recurrent:
        return MemoryPolicy.RECURRENT
    return MemoryPolicy.WINDOW if model.window > 0 else MemoryPolicy.DENSE


def _probe_policy(model: LlamaModel, context: LlamaContext) -> MemoryPolicy:
    """Find the policy by testing the memory, because the architecture may be one we do not know."""
    return read_policy(model) if context.can_cut() else MemoryPolicy.RECURRENT
