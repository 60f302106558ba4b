"""Joins the grammars of calls of several tools to one, in Lark."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from services.api.parsing.tool_calls.base import Schema, ThinkingDialect, ToolDialect
from services.shared.limits import JSON_WHITESPACE

# Writes each text of a call that may be a special token.
_SAMPLE: Schema = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "number": {"type": "integer"}},
}


def describe_calls(
    dialect: ToolDialect,
    tools: Mapping[str, tuple[Schema, bool]],
    special_tokens: Collection[str],
    *,
    has_several: bool,
) -> str:
    """A grammar of one call of any of these tools, or of several.

    `tools`: the schema of the arguments by name, and whether all of it must be supported; else what
    is not supported is not enforced.
    """
    rules: list[str] = []
    calls: list[str] = []
    for name, (schema, is_strict) in tools.items():
        guidance = {"whitespace_pattern": JSON_WHITESPACE, "lenient": not is_strict}
        complete = {**schema, "type": "object", "x-guidance": guidance}
        start, *more = (
            dialect.describe_call(name, complete, special_tokens).rstrip("\n").split("\n")
        )
        calls.append(start.removeprefix("start: "))
        rules += more
    # One whose text has no beginning of its own, or that ends the answer, comes once.
    is_repeatable = bool(dialect.trigger) and not isinstance(dialect, ThinkingDialect)
    more_calls = ' ("\\n" call)*' if has_several and is_repeatable else ""
    return "\n".join([f"start: call{more_calls}", f"call: {' | '.join(calls)}", *rules]) + "\n"


def find_written(dialect: ToolDialect, special_tokens: Collection[str], *, also: str) -> list[str]:
    """Those of the tokens that the grammars of a dialect write, or that another text contains."""
    grammars = [dialect.describe_call("f", _SAMPLE)]
    if isinstance(dialect, ThinkingDialect):
        grammars.append(dialect.describe_before(is_call=False))
    text = "\n".join([*grammars, json.dumps(also, ensure_ascii=False)])
    return [t for t in special_tokens if t and json.dumps(t, ensure_ascii=False)[1:-1] in text]
