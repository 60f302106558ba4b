"""llguidance by its C interface (github.com/guidance-ai/llguidance, parser/src/ffi.rs).

The library inside llguidance's Python package exports it. Calls by ctypes release the interpreter's
lock. The package's own classes hold it while they read a vocabulary, and no answer could continue
meanwhile (numbers are in bench/performance.md). The package's Python part still translates schemas
and grammars.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import (
    POINTER,
    c_bool,
    c_char_p,
    c_int32,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache, partial
from typing import Any, Self

import llguidance
import numpy as np
from numpy.typing import NDArray

from services.shared.grammar_tokens import read_token_name

Tokenize = Callable[[bytes], Sequence[int]]
SPECIAL = b"\xff"  # no UTF-8 text begins so: llguidance's mark for tokens that match no text

_MAX_ERROR_BYTES = 1000
# llguidance compiles by recursion: 4 KB for each level of a grammar, its references included. Where
# the stack ends, the process does. This suffices for a grammar of 1 MB, 10 characters a level.
_STACK_BYTES = 512 << 20
_stack_size_lock = threading.Lock()  # held while the size for new threads is another one
# tokens of a text: (user data, text, its bytes, room for tokens, their number) -> number of tokens
_TokenizeFunction = ctypes.CFUNCTYPE(
    c_size_t, c_void_p, POINTER(c_uint8), c_size_t, POINTER(c_uint32), c_size_t
)


class _TokenizerInit(ctypes.Structure):
    """LlgTokenizerInitV2. Its size tells the library which fields there are."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("vocab_size", c_uint32),
        ("tok_eos", c_uint32),
        ("token_lens", c_void_p),
        ("token_bytes", c_char_p),
        ("tokenizer_json", c_char_p),
        ("tokenize_assumes_string", c_bool),
        ("tokenize_fn", c_void_p),
        ("use_approximate_greedy_tokenize_fn", c_bool),
        ("tokenize_user_data", c_void_p),
        ("slices", c_void_p),
        ("tok_eos_extra", c_void_p),
        ("tok_eos_extra_count", c_uint32),
    )


class Limits(ctypes.Structure):
    """ParserLimits: what one grammar may cost. llguidance counts work, not time."""

    _fields_ = (
        ("max_items_in_row", c_size_t),
        ("initial_lexer_fuel", c_uint64),
        ("step_lexer_fuel", c_uint64),
        ("step_max_items", c_size_t),
        ("max_lexer_states", c_size_t),
        ("max_grammar_size", c_size_t),
        ("precompute_large_lexemes", c_bool),
        ("verbose_errors", c_bool),
    )


class _MatcherInit(ctypes.Structure):
    """LlgConstraintInit, and room for fields that a later version may add."""

    _fields_ = (
        ("tokenizer", c_void_p),
        ("log_buffer_level", c_uint32),
        ("log_stderr_level", c_uint32),
        ("ff_tokens_ok", c_bool),
        ("backtrack_ok", c_bool),
        ("limits", Limits),
        ("reserve", c_uint64 * 32),
    )


_DEFAULT_LIMITS = (2000, 1_000_000, 200_000, 50_000, 250_000, 500_000, True, True)
_PROTOTYPES = {
    "llg_new_tokenizer_v2": (c_void_p, (POINTER(_TokenizerInit), c_char_p, c_size_t)),
    "llg_free_tokenizer": (None, (c_void_p,)),
    "llg_constraint_init_set_defaults": (None, (POINTER(_MatcherInit), c_void_p)),
    "llg_new_matcher": (c_void_p, (POINTER(_MatcherInit), c_char_p, c_char_p)),
    "llg_clone_matcher": (c_void_p, (c_void_p,)),
    "llg_free_matcher": (None, (c_void_p,)),
    "llg_matcher_get_error": (c_char_p, (c_void_p,)),
    "llg_matcher_is_stopped": (c_bool, (c_void_p,)),
    "llg_matcher_validate_tokens": (c_int32, (c_void_p, POINTER(c_uint32), c_size_t)),
    "llg_matcher_consume_token": (c_int32, (c_void_p, c_uint32)),
    "llg_matcher_compute_mask_into": (c_int32, (c_void_p, c_void_p, c_size_t)),
}


@cache
def _library() -> ctypes.CDLL:
    """The library. Raises RuntimeError if it is not of the version that is described here."""
    library = ctypes.CDLL(llguidance._lib.__file__)  # noqa: SLF001
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    # Only the order of these fields may change without notice. Their defaults show it.
    init = _MatcherInit()
    library.llg_constraint_init_set_defaults(init, None)
    found = tuple(getattr(init.limits, name) for name, _ in Limits._fields_)
    if found != _DEFAULT_LIMITS:
        raise RuntimeError(f"llguidance has other limits than expected: {found}")
    return library


class GrammarTokenizer:
    """A vocabulary as llguidance reads it. Any thread."""

    def __init__(
        self, tokens: Sequence[bytes], *, ends: Collection[int], tokenize: Tokenize | None = None
    ) -> None:
        """`tokens`: their bytes by id; those that begin with 0xff match no text.

        `tokenize`: the usual tokens of a text; without it, the longest token that fits comes first.
        Raises ValueError where llguidance cannot read the vocabulary.
        """
        self._handle: int | None = None  # first of all, for __del__
        self._library = _library()
        self.vocab_size = len(tokens)
        self.ends = tuple(ends)
        self._tokenize = None if tokenize is None else _to_c(tokenize)
        self._spellings = _find_spellings(tokens)
        lengths = np.fromiter(map(len, tokens), np.uint32, len(tokens))
        more_ends = np.array(self.ends[1:], np.uint32)
        init = _TokenizerInit(
            struct_size=ctypes.sizeof(_TokenizerInit),
            vocab_size=len(tokens),
            tok_eos=self.ends[0],
            token_lens=lengths.ctypes.data,
            token_bytes=b"".join(tokens),
            tokenize_assumes_string=True,
            tokenize_fn=ctypes.cast(self._tokenize, c_void_p) if self._tokenize else None,
            use_approximate_greedy_tokenize_fn=tokenize is None,
            tok_eos_extra=more_ends.ctypes.data,
            tok_eos_extra_count=len(more_ends),
        )
        error = ctypes.create_string_buffer(_MAX_ERROR_BYTES)
        self._handle = self._library.llg_new_tokenizer_v2(init, error, len(error))
        if self._handle is None:
            raise ValueError(error.value.decode(errors="replace"))

    def __del__(self) -> None:
        if self._handle is not None:
            self._library.llg_free_tokenizer(self._handle)

    def spell(self, text: bytes, *, with_special: bool = True) -> list[int] | None:
        """Tokens of a text: special ones where it has their texts, and one for each other byte.

        None if the vocabulary lacks a byte.
        """
        tokens = []
        while text:
            longest = len(text) if with_special else 1
            found = (n for n in range(longest, 0, -1) if text[:n] in self._spellings)
            size = next(found, 0)
            if not size:
                return None
            tokens.append(self._spellings[text[:size]])
            text = text[size:]
        return tokens

    def build_matcher(self, grammar: str, limits: Limits | None = None) -> GrammarMatcher:
        """Compile a grammar, as `llguidance.grammar_from` returns it.

        `get_error` of the matcher says what is wrong with it. Without limits, those of llguidance
        apply.
        """
        init = _MatcherInit()
        self._library.llg_constraint_init_set_defaults(init, self._handle)
        init.log_stderr_level = 0
        if limits is not None:
            init.limits = limits
        compile_ = partial(self._library.llg_new_matcher, init, b"llguidance", grammar.encode())
        return GrammarMatcher(_call_with_large_stack(compile_), self)


class GrammarMatcher:
    """A position in a grammar. One thread at a time."""

    def __init__(self, handle: int, tokenizer: GrammarTokenizer) -> None:
        self._handle = handle
        self._tokenizer = tokenizer  # must outlive the matcher
        self._library = _library()

    def __del__(self) -> None:
        self._library.llg_free_matcher(self._handle)

    def copy(self) -> Self:
        """A matcher of its own at the same position; takes microseconds."""
        return type(self)(self._library.llg_clone_matcher(self._handle), self._tokenizer)

    def get_error(self) -> str | None:
        """What went wrong; None without an error. After an error the matcher is of no use."""
        error: bytes | None = self._library.llg_matcher_get_error(self._handle)
        return None if error is None else error.decode(errors="replace")

    def is_stopped(self) -> bool:
        """Whether only the end may follow; also after an error."""
        return bool(self._library.llg_matcher_is_stopped(self._handle))

    def allows(self, token: int) -> bool:
        """Whether the token may follow; False after an error."""
        tokens = (c_uint32 * 1)(token)
        return bool(self._library.llg_matcher_validate_tokens(self._handle, tokens, 1) == 1)

    def allows_all(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens may follow, one after the other."""
        array = (c_uint32 * len(tokens))(*tokens)
        count = self._library.llg_matcher_validate_tokens(self._handle, array, len(tokens))
        return bool(count == len(tokens))

    def consume(self, token: int) -> bool:
        """Advance by one token; False after an error."""
        return bool(self._library.llg_matcher_consume_token(self._handle, token) == 0)

    def compute_mask(self) -> NDArray[np.uint8]:
        """One bit per token that may follow, lowest bit first. Meaningless after an error."""
        mask = np.zeros((self._tokenizer.vocab_size + 31) // 32 * 4, np.uint8)
        self._library.llg_matcher_compute_mask_into(self._handle, mask.ctypes.data, mask.nbytes)
        return mask


def _call_with_large_stack(function: Callable[[], int]) -> int:
    """Call it in a thread of its own, whose stack takes memory only where it is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="grammar") as executor:
        with _stack_size_lock:
            before = threading.stack_size(_STACK_BYTES)
            try:
                called = executor.submit(function)  # starts the thread
            finally:
                threading.stack_size(before)
        return called.result()


def _find_spellings(tokens: Sequence[bytes]) -> dict[bytes, int]:
    """The tokens of single bytes and the special ones, by their texts."""
    spellings = {token: id_ for id_, token in enumerate(tokens) if len(token) == 1}
    for id_, token in enumerate(tokens):
        if token.startswith(SPECIAL) and len(token) > 1:
            name = token[1:].decode(errors="replace")
            spellings[read_token_name(name).encode()] = id_
    return spellings


def _to_c(tokenize: Tokenize) -> ctypes._CFunctionType:
    """A C function over a Python one; it takes the interpreter's lock when it is called."""

    def call(_: object, text: object, length: int, output: Any, room: int) -> int:
        tokens = tokenize(ctypes.string_at(text, length))  # type: ignore[arg-type]
        for place, token in enumerate(tokens[:room]):
            output[place] = token
        return len(tokens)

    return _TokenizeFunction(call)
