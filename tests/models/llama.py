"""A minimal use of llama.cpp, as a reference for the engine: one prompt, one sequence, greedy.

It does not use the code of `services.engine`, so that a bug there is not repeated here. Only the
library is opened by the engine, so that both compute with the same code.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Self

import numpy as np

from services.engine.backends.llamacpp.compute_modules import uses_amx
from services.engine.backends.llamacpp.library import load_library

BATCH_TOKENS = 512


def library() -> ModuleType:
    """The bindings, opened by the engine: a process has one callback for llama.cpp's log."""
    return load_library()


class ReferenceModel:
    """One model with one sequence. Close it, or use it as a context manager."""

    def __init__(self, path: Path, *, context_tokens: int = 4096) -> None:
        self._llama = llama = library()
        params = llama.llama_model_default_params()
        params.use_extra_bufts = not uses_amx(llama)
        self._model = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ValueError(f"llama.cpp cannot load {path.name}")
        context_params = llama.llama_context_default_params()
        context_params.n_ctx, context_params.n_seq_max = context_tokens, 1
        context_params.n_batch = BATCH_TOKENS
        self._context = llama.llama_init_from_model(self._model, context_params)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self._vocab)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the context and the weights. Safe to call twice."""
        if self._context:
            self._llama.llama_free(self._context)
            self._llama.llama_model_free(self._model)
            self._context = self._model = None

    def tokenise(self, text: str) -> list[int]:
        """Tokenise the text. Names of control tokens in the text become control tokens."""
        raw = text.encode()
        buffer = (ctypes.c_int32 * (len(raw) + 8))()
        count = self._llama.llama_tokenize(
            self._vocab, raw, len(raw), buffer, len(buffer), True, True
        )
        return list(buffer[:count])

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; empty for a control token."""
        buffer = ctypes.create_string_buffer(256)
        count = self._llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(count, 0)]

    def generate_greedy(self, prompt: list[int]) -> Iterator[int]:
        """Yield the most likely tokens without end; an end-of-answer token does not stop it."""
        llama = self._llama
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        batch = prompt
        while True:
            for start in range(0, len(batch), BATCH_TOKENS):
                self._decode(batch[start : start + BATCH_TOKENS])
            logits = llama.llama_get_logits_ith(self._context, -1)
            token = int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())
            yield token
            batch = [token]

    def answer_greedily(self, prompt: str, *, max_tokens: int = 512) -> tuple[str, str]:
        """The text of the answer and its finish reason: "stop" or "length"."""
        answer = bytearray()
        for count, token in enumerate(self.generate_greedy(self.tokenise(prompt))):
            if self._llama.llama_vocab_is_eog(self._vocab, token):
                return answer.decode(errors="replace"), "stop"
            if count == max_tokens:
                break
            answer += self.token_bytes(token)
        return answer.decode(errors="replace"), "length"

    def _decode(self, tokens: list[int]) -> None:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = self._llama.llama_batch_get_one(array, len(tokens))
        status = self._llama.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
