"""The batcher of a model that does not generate: it refuses every prompt."""

from __future__ import annotations

from services.engine.backends import ENCODER_REASON
from services.engine.backends.pooling import Encoder
from services.engine.core import Counters
from services.engine.runner.batcher import BatcherState, BatchEvent, BatchRequest, Ended
from services.shared.errors import InvalidRequest


class EncoderBatcher:
    """See Batcher. It is always idle; its model is used through `pooled`."""

    store = None
    uses_cuts = False

    def __init__(self, encoder: Encoder) -> None:
        self.info = encoder.info
        self.vocabulary = encoder.vocabulary
        self.pooled = encoder.pooled
        self.counters = Counters()
        self._encoder = encoder

    def add(self, request: BatchRequest) -> None:
        """See Batcher.add. Raises InvalidRequest."""
        raise InvalidRequest(
            f"{ENCODER_REASON}; it answers /v1/embeddings or /v1/rerank", param="model"
        )

    def cancel(self, request_id: int) -> list[Ended]:
        """See Batcher.cancel."""
        return []

    def step(self, now: float) -> list[BatchEvent]:
        """See Batcher.step."""
        return []

    def read_state(self) -> BatcherState:
        """See Batcher.read_state."""
        return BatcherState()

    def close(self) -> None:
        """See Batcher.close."""
        self._encoder.close()
