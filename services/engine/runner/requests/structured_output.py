"""Constrain an answer to a JSON schema, a regular expression or a grammar, token by token.

A `ConstraintCompiler` belongs to a vocabulary. It turns the constraint of a request into a
`ConstraintState`, or reports what is wrong with it before the request is queued. llguidance does
the parsing: about 25 µs for a mask over 152k tokens, and 9 µs to test one token. llguidance counts
work, not time; the limits below bound what the grammar of one request may cost in time and memory.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Self

import llguidance
import numpy as np
from numpy.typing import NDArray

from services.engine.core import Constraint
from services.engine.runner.requests.grammar_library import (
    GrammarMatcher,
    GrammarTokenizer,
    Limits,
)
from services.engine.runner.requests.schema_choices import (
    check_gbnf,
    check_lark,
    check_regex,
    check_schema,
)
from services.shared.errors import InternalError, InvalidRequest
from services.shared.limits import JSON_WHITESPACE

_MAX_SOURCE_CHARS = 1 << 20  # of a constraint's source
_MAX_GBNF_CHARS = 64 << 10  # its translation takes time in the square of its rules
# Compiled constraints that are kept, because agents send the same schema again and again: by number,
# and by the characters of their sources. Each character takes 20 to 350 bytes of memory, but a few
# rules that double each other take 20 MB in all.
_MAX_COMPILED = 16
_MAX_COMPILED_CHARS = 256 << 10
_PROBED_TOKENS = 3
_MAX_MESSAGE_CHARS = 500

# Work to compile a constraint, in llguidance's unit: by the length of its source, because 25 rules
# that double each other cost as much as a schema of 100 KB.
_FUEL = 200_000
_FUEL_PER_CHAR = 20
_MAX_FUEL = 5_000_000

_JSON_OPTIONS: llguidance._lib.JsonCompileOptions = {"whitespace_pattern": JSON_WHITESPACE}


class ConstraintCompiler:
    """Compiles constraints for one vocabulary. Any thread; the first call builds the tokenizer."""

    def __init__(self, make_tokenizer: Callable[[], GrammarTokenizer]) -> None:
        self._make_tokenizer = make_tokenizer
        self._tokenizer: GrammarTokenizer | None = None
        # These matchers are never advanced: requests get copies, which take microseconds.
        self._compiled: OrderedDict[Constraint, GrammarMatcher] = OrderedDict()
        # Guards all of the above, and is held to copy a matcher.
        self._lock = threading.Lock()

    def compile(self, constraint: Constraint) -> ConstraintState:
        """Build the state of an answer without tokens.

        Raises InvalidRequest with the reason; its field is the kind of the constraint.
        """
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._make_tokenizer()
            tokenizer = self._tokenizer
            matcher = self._compiled.get(constraint)
        # Without the lock: a constraint that takes long delays no other one.
        if matcher is None:
            try:
                matcher = _build_matcher(tokenizer, constraint)
            except InvalidRequest as error:
                error.param = constraint.kind
                raise
        with self._lock:
            self._compiled[constraint] = matcher
            self._compiled.move_to_end(constraint)
            self._forget_oldest()
            return ConstraintState(matcher.copy(), tokenizer)

    def _forget_oldest(self) -> None:
        """Keep to the limits, but always keep the newest."""
        chars = sum(len(constraint.source) for constraint in self._compiled)
        while len(self._compiled) > 1 and (
            len(self._compiled) > _MAX_COMPILED or chars > _MAX_COMPILED_CHARS
        ):
            constraint, _ = self._compiled.popitem(last=False)
            chars -= len(constraint.source)


class ConstraintState:
    """The position of one answer in its grammar. One thread."""

    def __init__(self, matcher: GrammarMatcher, tokenizer: GrammarTokenizer) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._vocab_size = tokenizer.vocab_size
        self._ends = frozenset(tokenizer.ends)

    @property
    def is_finished(self) -> bool:
        """Whether only the end of the answer may follow."""
        return self._matcher.is_stopped()

    def allows(self, token: int) -> bool:
        """Whether this token may follow; it may be an end-of-generation token."""
        if self._matcher.is_stopped():
            self._check()
            return token in self._ends
        allowed = self._matcher.allows(token)
        if not allowed:
            self._check()
        return allowed

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may follow, one flag per token of the vocabulary.

        Where the grammar forces a text, the mask permits only the tokens of that text's usual
        tokenization, while `allows` permits any: a model writes better with the tokens it was
        trained on.
        """
        bits = self._matcher.compute_mask()
        self._check()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def copy(self) -> Self:
        """A state of its own at the same position."""
        return type(self)(self._matcher.copy(), self._tokenizer)

    def try_text(self, text: bytes) -> bool:
        """Append a text, which may end within a character; False if it does not fit."""
        tokens = self._tokenizer.spell(text)
        if tokens is None or not self._matcher.allows_all(tokens):
            return False
        return all(map(self._matcher.consume, tokens))

    def accept(self, token: int) -> None:
        """Append a token, which `allows` permits."""
        if self._matcher.is_stopped() and token in self._ends:
            return
        if not self._matcher.consume(token):
            self._check()
            raise InternalError(f"token {token} does not fit the constraint")

    def _check(self) -> None:
        error = self._matcher.get_error()
        if error is not None:
            raise InvalidRequest(f"the answer cannot follow its constraint: {_shorten(error)}")


def _build_matcher(tokenizer: GrammarTokenizer, constraint: Constraint) -> GrammarMatcher:
    """Compile a constraint. With a trigger, the matcher has consumed the trigger's text."""
    max_chars = _MAX_GBNF_CHARS if constraint.kind == "gbnf" else _MAX_SOURCE_CHARS
    if len(constraint.source) > max_chars:
        raise InvalidRequest(f"a {constraint.kind} constraint has at most {max_chars} characters")
    grammar = _to_grammar(constraint)
    if constraint.before:
        grammar = _put_before(constraint.before, grammar)
    matcher = tokenizer.build_matcher(grammar, _build_limits(constraint.source))
    if constraint.trigger is not None and matcher.get_error() is None:
        _consume_text(matcher, tokenizer, constraint.trigger.text)
    matcher.compute_mask()  # finds the text that must follow; the copies for requests have it then
    error = matcher.get_error() or _find_early_error(matcher.copy())
    if error is not None:
        raise _build_error(constraint, error)
    return matcher


def _find_early_error(matcher: GrammarMatcher) -> str | None:
    """What would go wrong with the first tokens of an answer, found here instead of in the loop."""
    for _ in range(_PROBED_TOKENS):
        bits = matcher.compute_mask()
        allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        if not len(allowed) or matcher.is_stopped() or not matcher.consume(int(allowed[0])):
            break
    return matcher.get_error()


def _build_limits(source: str) -> Limits:
    """What a constraint may cost; the comments translate fuel by llguidance's own figures."""
    return Limits(
        max_items_in_row=2000,
        initial_lexer_fuel=min(_FUEL + _FUEL_PER_CHAR * len(source), _MAX_FUEL),
        step_lexer_fuel=200_000,  # 14 ms for one mask
        step_max_items=50_000,  # 3 ms for one mask
        max_lexer_states=50_000,  # 100 MB
        max_grammar_size=500_000,
        precompute_large_lexemes=True,
        verbose_errors=False,  # an error must not quote the state of the parser
    )


def _to_grammar(constraint: Constraint) -> str:
    try:
        if constraint.kind == "json_schema":
            schema = _parse_schema(constraint.source)
            check_schema(schema)
            return llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=_JSON_OPTIONS)
        if constraint.kind == "gbnf":
            check_gbnf(constraint.source)
        if constraint.kind == "regex":
            check_regex(constraint.source)
        if constraint.kind == "lark":
            check_lark(constraint.source)
        return llguidance.grammar_from(constraint.kind, constraint.source)
    except RecursionError as error:
        raise _build_error(constraint, "nested too deeply") from error
    except ValueError as error:
        raise _build_error(constraint, str(error)) from error


def _put_before(before: str, grammar: str) -> str:
    """A grammar, as `grammar_from` returns it, after one in Lark; each has its own names."""
    is_json = grammar.startswith("{")
    answer = json.loads(grammar)["grammars"][0] if is_json else {"lark_grammar": grammar}
    parts = [
        {"lark_grammar": "start: @before @answer"},
        {"name": "before", "lark_grammar": before},
        {**answer, "name": "answer"},
    ]
    return json.dumps({"grammars": parts})


def _consume_text(matcher: GrammarMatcher, tokenizer: GrammarTokenizer, text: str) -> None:
    """Advance by the text, whether the grammar writes it by special tokens or letter by letter."""
    for with_special in (True, False):
        tokens = tokenizer.spell(text.encode(), with_special=with_special) or ()
        if tokens and matcher.allows_all(tokens):
            all(map(matcher.consume, tokens))
            return
    raise InvalidRequest(f"no answer of the grammar begins with its trigger {text!r}")


def _parse_schema(source: str) -> dict[str, object]:
    """Parse the schema: text of more than one JSON value must not reach llguidance."""
    schema = json.loads(source)
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise ValueError("a schema is an object")
    return schema


def _build_error(constraint: Constraint, problem: str) -> InvalidRequest:
    kind = constraint.kind.replace("_", " ")
    return InvalidRequest(f"invalid {kind}: {_shorten(problem)}")


def _shorten(message: str) -> str:
    return message.strip()[:_MAX_MESSAGE_CHARS]
