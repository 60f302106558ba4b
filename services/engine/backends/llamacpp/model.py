"""A loaded GGUF file: weights, vocabulary and header."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

from services.engine.backends.base import OnProgress
from services.engine.backends.llamacpp.failures import build_load_error
from services.engine.backends.llamacpp.library import capture_log
from services.engine.backends.llamacpp.settings import build_model_parameters
from services.engine.backends.llamacpp.vocabulary import LlamaVocabulary
from services.engine.core import LoadConfig

logger = logging.getLogger(__name__)


class LlamaModel:
    """The weights. Close the model after the contexts that were created from it."""

    def __init__(
        self, lib: ModuleType, config: LoadConfig, on_progress: OnProgress, *, dry: bool = False
    ) -> None:
        """Read the file. Raises ModelLoadFailed with a reason."""
        self._lib = lib
        self.handle = _load(lib, config, on_progress, dry=dry)
        self.vocabulary = LlamaVocabulary(lib, lib.llama_model_get_vocab(self.handle))
        # Of BERT and its relatives only a context tells, see NoMemoryError.
        self.is_encoder = not lib.llama_model_has_decoder(self.handle)

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers keep a state instead of one cell per token."""
        return bool(
            self._lib.llama_model_is_recurrent(self.handle)
            or self._lib.llama_model_is_hybrid(self.handle)
        )

    @property
    def has_cells(self) -> bool:
        """Whether some layers keep one cell per token."""
        return not self._lib.llama_model_is_recurrent(self.handle)

    @property
    def window(self) -> int:
        """Tokens of the sliding attention window; 0 if there is none."""
        return int(self._lib.llama_model_n_swa(self.handle))

    @property
    def architecture(self) -> str:
        """`general.architecture` of the header."""
        return self._read("general.architecture") or ""

    @property
    def trained_context_length(self) -> int:
        """Context length for which the model was trained, in tokens."""
        return int(self._lib.llama_model_n_ctx_train(self.handle))

    @property
    def short_context_length(self) -> int:
        """Where a longer context is chosen, llama.cpp may take other factors for all positions."""
        original = self.read_number("rope.scaling.original_context_length")
        return self.trained_context_length if original is None else original

    @property
    def layers(self) -> int:
        """Number of layers that can be offloaded: the blocks and the output layer."""
        return int(self._lib.llama_model_n_layer(self.handle)) + 1

    @property
    def heads(self) -> int:
        """Number of attention heads of a layer."""
        return int(self._lib.llama_model_n_head(self.handle))

    @property
    def weights_bytes(self) -> int:
        """Total size of the tensors."""
        return int(self._lib.llama_model_size(self.handle))

    def read_text(self, key: str) -> str | None:
        """A value of the header under the name of the architecture, as text; None without one."""
        return self._read(f"{self.architecture}.{key}")

    def read_number(self, key: str) -> int | None:
        """As `read_text`, of a whole number."""
        text = self.read_text(key)
        return int(text) if text is not None and text.isdecimal() else None

    def _read(self, key: str) -> str | None:
        buffer = bytes(128)
        count = self._lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return None if count < 0 else buffer[:count].decode("utf-8", "replace")

    def close(self) -> None:
        """Free the weights. Safe to call twice."""
        if self.handle is not None:
            self._lib.llama_model_free(self.handle)
            self.handle = None


def _load(lib: ModuleType, config: LoadConfig, on_progress: OnProgress, *, dry: bool) -> Any:
    params = build_model_parameters(lib, config, dry=dry)

    def report(fraction: float, _user_data: object) -> bool:
        on_progress(fraction)
        return True  # continue to load

    callback = lib.llama_progress_callback(report)
    params.progress_callback = callback
    with capture_log() as lines:
        handle = lib.llama_model_load_from_file(config.model_path.encode(), params)
    if not handle:  # a NULL pointer object, not always None
        logger.error("llama.cpp could not load the model", extra={"lines": lines[-4:]})
        raise build_load_error(lines)
    return handle
