"""Hold an answer to a JSON schema, a regular expression or a grammar, token by token.

`Constraints` belongs to a vocabulary and turns a request's constraint into a `ConstraintState`, or
says what is wrong with it before anything is queued. llguidance does the parsing: about 25 µs for a
mask over 152k tokens and 9 µs to test one. It knows no clock, but counts work; the limits here bound
what one request's grammar may cost in time and memory.
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import llguidance
import numpy as np
from numpy.typing import NDArray

from services.engine.core import Constraint
from services.shared.errors import InternalError, InvalidRequest

if TYPE_CHECKING:
    import llama_cpp

_MOST_CHARS = 1 << 20  # of a constraint's source
_KEPT = 64  # compiled constraints; agents send the same schema again and again
_MESSAGE_CHARS = 500
_MOST_PIECE_BYTES = 16 << 10
_SPECIAL = b"\xff"  # begins no UTF-8 text: llguidance's mark for a token that matches none

# Fuel is llguidance's unit of work; the comments translate by its own figures.
_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=5_000_000,  # 0.1 s to compile
    step_lexer_fuel=200_000,  # 14 ms for one mask
    step_max_items=50_000,  # 3 ms for one mask
    max_lexer_states=50_000,  # 100 MB
    max_grammar_size=500_000,
    verbose_errors=False,  # an error must not quote parser state
)

# As llama.cpp's own converter: enough to indent, too little for a weak model to get lost in.
_JSON_OPTIONS: llguidance._lib.JsonCompileOptions = {
    "whitespace_pattern": r"[ \t]?|\r?\n{1,2}[ \t]{0,20}",
}


def tokenizer_of_llamacpp(
    vocab: llama_cpp.llama_vocab_p, ends: Collection[int]
) -> llguidance.LLTokenizer:
    """For a vocabulary of llama.cpp, which must outlive it. About a second for 150k tokens.

    Raises InvalidRequest where the model has no end token, as does `tokenizer_of_pieces`.
    """
    import llama_cpp

    _require_end(ends)
    pieces, special = _llamacpp_pieces(vocab)
    special.update(ends)
    tokenize = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
    try:
        # Not lltokenizer_from_vocab: it asks for attributes by a deprecated name, a warning a token.
        return llguidance.LLTokenizer.from_llamacpp(  # type: ignore[attr-defined, no-any-return]
            tokens=_Pieces(pieces, ends, special).tokens,
            vocab_ptr=vocab,
            tokenize_fptr=tokenize,
            eos_token=list(ends),
        )
    except ValueError:
        # A vocabulary that cannot spell single control bytes (word pieces): llguidance's adapter
        # wants one as a marker. Greedy spelling is as good for such a model.
        return tokenizer_of_pieces(pieces, ends=ends, special=special)


def _llamacpp_pieces(vocab: llama_cpp.llama_vocab_p) -> tuple[list[bytes], set[int]]:
    """Every token's bytes, and the tokens that match no text."""
    import llama_cpp

    buffer = ctypes.create_string_buffer(_MOST_PIECE_BYTES)
    pieces: list[bytes] = []
    special: set[int] = set()
    for token in range(llama_cpp.llama_vocab_n_tokens(vocab)):
        length = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
        piece = ctypes.string_at(buffer, max(length, 0))
        attributes = llama_cpp.llama_vocab_get_attr(vocab, token)
        if attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL or (
            attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
            and piece.startswith(b"<")
            and piece.endswith(b">")
        ):
            special.add(token)
        pieces.append(piece)
    return pieces, special


def tokenizer_of_pieces(
    pieces: Sequence[bytes], *, ends: Collection[int], special: Collection[int] = ()
) -> llguidance.LLTokenizer:
    """For a vocabulary given as bytes by token id. `special` tokens match no text."""
    _require_end(ends)
    source = _Pieces(pieces, ends, special)
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(source), eos_token=list(ends))
    source.tokenize = tokenizer.greedy_tokenize
    return tokenizer


class Constraints:
    """Compiles constraints for one vocabulary. Any thread; the first call builds the tokenizer."""

    def __init__(self, make_tokenizer: Callable[[], llguidance.LLTokenizer]) -> None:
        self._make_tokenizer = make_tokenizer
        self._tokenizer: llguidance.LLTokenizer | None = None
        # Never advanced; requests get copies, which take microseconds.
        self._compiled: OrderedDict[Constraint, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()  # guards both of the above

    def compile(self, constraint: Constraint) -> ConstraintState:
        """The state of an answer that has no token yet. Raises InvalidRequest, saying what is wrong."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._make_tokenizer()
            matcher = self._compiled.get(constraint)
            if matcher is None:
                matcher = _matcher(self._tokenizer, constraint)
                self._compiled[constraint] = matcher
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(constraint)
            return ConstraintState(matcher.deep_copy(), self._tokenizer)


class ConstraintState:
    """Where one answer stands in its grammar. One thread."""

    def __init__(self, matcher: llguidance.LLMatcher, tokenizer: llguidance.LLTokenizer) -> None:
        self._matcher = matcher
        self._vocab_size = tokenizer.vocab_size
        self._ends = frozenset(tokenizer.eos_tokens)

    @property
    def is_finished(self) -> bool:
        """Nothing may follow but the end of the answer."""
        return self._matcher.is_stopped()

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with this token, an end-of-generation one included."""
        if self._matcher.is_stopped():
            self._check()
            return token in self._ends
        allowed: bool = self._matcher.validate_tokens([token]) == 1
        if not allowed:
            self._check()
        return allowed

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may follow, one flag per token of the vocabulary.

        Where the grammar forces text it names that text's own tokens only, so it may be narrower
        than `allows`: a model writes better in the spelling it was trained on.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """The answer goes on with this token, which `allows` permitted."""
        if self._matcher.is_stopped() and token in self._ends:
            return
        if not self._matcher.consume_token(token):
            self._check()
            raise InternalError(f"token {token} does not fit the constraint")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(
                f"the answer cannot follow its constraint: {_shortened(self._matcher.get_error())}"
            )


class _Pieces:
    """A vocabulary in the shape llguidance.TokenizerWrapper asks for."""

    bos_token_id = None

    def __init__(
        self, pieces: Sequence[bytes], ends: Collection[int], special: Iterable[int]
    ) -> None:
        hidden = {*special, *ends}
        self.tokens = [
            _SPECIAL + piece if token in hidden else piece for token, piece in enumerate(pieces)
        ]
        self.special_token_ids = sorted(hidden)
        self.eos_token_id = min(ends)
        self.tokenize: Callable[[str], list[int]] = lambda _: []  # until there is a tokenizer

    def __call__(self, text: bytes) -> list[int]:
        """Tokens of text the grammar forces: the mask then asks for these, not for any spelling."""
        return self.tokenize(text.decode(errors="ignore"))


def _require_end(ends: Collection[int]) -> None:
    if not ends:
        raise InvalidRequest("this model has no end token, so its answers cannot be constrained")


def _matcher(tokenizer: llguidance.LLTokenizer, constraint: Constraint) -> llguidance.LLMatcher:
    if len(constraint.source) > _MOST_CHARS:
        raise InvalidRequest(f"a constraint has at most {_MOST_CHARS} characters")
    matcher = llguidance.LLMatcher(tokenizer, _grammar(constraint), log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise _invalid(constraint, matcher.get_error())
    return matcher


def _grammar(constraint: Constraint) -> str:
    try:
        if constraint.kind == "json_schema":
            return llguidance.LLMatcher.grammar_from_json_schema(
                _schema(constraint.source), defaults=_JSON_OPTIONS
            )
        return llguidance.grammar_from(constraint.kind, constraint.source)
    except RecursionError as error:
        raise _invalid(constraint, "nested too deeply") from error
    except ValueError as error:
        raise _invalid(constraint, str(error)) from error


def _schema(source: str) -> dict[str, object]:
    """The schema, parsed: text that is more than one JSON value must not reach llguidance."""
    schema = json.loads(source)
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise ValueError("a schema is an object")
    return schema


def _invalid(constraint: Constraint, problem: str) -> InvalidRequest:
    kind = constraint.kind.replace("_", " ")
    return InvalidRequest(f"invalid {kind}: {_shortened(problem)}")


def _shortened(message: str) -> str:
    return message.strip()[:_MESSAGE_CHARS]
