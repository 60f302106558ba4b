"""llama.cpp at its plainest: one prompt, one sequence, greedy. What the engine is compared with.

Independent of `services.engine` on purpose: a mistake there must not be repeated here. Only the
choice of compute modules is the engine's own, so that both compute with the same code.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from services.engine.backends.llamacpp.compute_modules import load_compute_modules, uses_amx

BATCH_TOKENS = 512


@cache
def library() -> ModuleType:
    """The bindings, silent, with every compute backend registered."""
    import llama_cpp

    llama_cpp.llama_log_set(_ignore_log(), None)
    load_compute_modules(Path(llama_cpp.__file__).parent / "lib")
    llama_cpp.llama_backend_init()
    return llama_cpp


@cache  # C keeps only the pointer: the callback must live on
def _ignore_log() -> Any:
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda level, text, data: None)


class Plain:
    """One model and one sequence. Close it, or use it as a context manager."""

    def __init__(self, path: Path, *, context_tokens: int = 4096) -> None:
        self._llama = llama = library()
        params = llama.llama_model_default_params()
        params.use_extra_bufts = not uses_amx(llama)
        self._model = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ValueError(f"llama.cpp cannot load {path.name}")
        wanted = llama.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_seq_max = context_tokens, BATCH_TOKENS, 1
        self._context = llama.llama_init_from_model(self._model, wanted)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self._vocab)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def close(self) -> None:
        """Free context and weights. Safe to call twice."""
        if self._context:
            self._llama.llama_free(self._context)
            self._llama.llama_model_free(self._model)
            self._context = self._model = None

    def tokenise(self, text: str) -> list[int]:
        """Tokens of the text; the names of control tokens in it become those tokens."""
        raw = text.encode()
        room = (ctypes.c_int32 * (len(raw) + 8))()
        count = self._llama.llama_tokenize(self._vocab, raw, len(raw), room, len(room), True, True)
        return list(room[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of one token; none for a control token."""
        room = ctypes.create_string_buffer(256)
        count = self._llama.llama_token_to_piece(self._vocab, token, room, len(room), 0, False)
        return room.raw[: max(count, 0)]

    def greedy_tokens(self, prompt: list[int]) -> Iterator[int]:
        """The most likely continuation, without end: an end-of-answer token is yielded like any."""
        llama = self._llama
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        feed = prompt
        while True:
            for start in range(0, len(feed), BATCH_TOKENS):
                self._decode(feed[start : start + BATCH_TOKENS])
            logits = llama.llama_get_logits_ith(self._context, -1)
            token = int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())
            yield token
            feed = [token]

    def greedy(self, prompt: str, *, max_tokens: int = 512) -> tuple[str, str]:
        """The answer's text and why it ended: "stop" or "length"."""
        said = bytearray()
        for count, token in enumerate(self.greedy_tokens(self.tokenise(prompt))):
            if self._llama.llama_vocab_is_eog(self._vocab, token):
                return said.decode(errors="replace"), "stop"
            if count == max_tokens:
                break
            said += self.piece(token)
        return said.decode(errors="replace"), "length"

    def _decode(self, tokens: list[int]) -> None:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = self._llama.llama_batch_get_one(array, len(tokens))
        status = self._llama.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
