"""The backend contract, implemented with llama.cpp."""

from __future__ import annotations

from services.engine.backends.base import Step
from services.engine.backends.llamacpp.context import LlamaContext
from services.engine.backends.llamacpp.model import LlamaModel
from services.engine.backends.llamacpp.pooled import LlamaPooledModel
from services.engine.core import MemoryPolicy, ModelInfo, RowCosts

# A row looks at the mask of every cell in use, in every layer and for every head: 6 144 idle cells
# made steps 11 to 16 % longer (1 to 16 rows, 2 threads, shape of Qwen2.5-0.5B).
_MASK_LOOK_SECONDS = 2e-9


class LlamaBackend:
    """A GGUF model and one context."""

    def __init__(
        self, model: LlamaModel, context: LlamaContext, pooled: LlamaPooledModel, info: ModelInfo
    ) -> None:
        self.info = info
        self.pooled = pooled
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

    def close(self) -> None:
        """Free contexts and weights. Safe to call twice."""
        self.pooled.close()
        self._context.close()
        self._model.close()


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
