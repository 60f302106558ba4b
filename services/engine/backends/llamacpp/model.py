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
from services.shared.errors import ModelLoadFailed

logger = logging.getLogger(__name__)

ENCODER_REASON = "this model does not generate text: it is an encoder"


class LlamaModel:
    """The weights. Close the model after the contexts that were created from it."""

    def __init__(
        self, lib: ModuleType, config: LoadConfig, on_progress: OnProgress, *, dry: bool = False
    ) -> None:
        """Read the file. Raises ModelLoadFailed with a reason."""
        self._lib = lib
        self.handle = _load(lib, config, on_progress, dry=dry)
        self.vocabulary = LlamaVocabulary(lib, lib.llama_model_get_vocab(self.handle))
        if not lib.llama_model_has_decoder(self.handle):
            self.close()
            raise ModelLoadFailed(ENCODER_REASON)

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
        return self._read_header("general.architecture")

    @property
    def trained_context_length(self) -> int:
        """Context length for which the model was trained, in tokens."""
        return int(self._lib.llama_model_n_ctx_train(self.handle))

    @property
    def short_context_length(self) -> int:
        """Where a longer context is chosen, llama.cpp may take other factors for all positions."""
        original = self._read_header(f"{self.architecture}.rope.scaling.original_context_length")
        return int(original) if original.isdecimal() else self.trained_context_length

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

    def close(self) -> None:
        """Free the weights. Safe to call twice."""
        if self.handle is not None:
            self._lib.llama_model_free(self.handle)
            self.handle = None

    def _read_header(self, key: str) -> str:
        """A value of the header as text; empty where there is none."""
        buffer = bytes(128)
        count = self._lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer[: max(count, 0)].decode("utf-8", "replace")


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
