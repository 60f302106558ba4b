"""The Jinja environment for chat templates: what other software gives them, and nothing of Python.

The sandbox keeps a template away from Python's internals. It limits neither time nor memory; the
limits of the process do (`renderer_main.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import Environment, TemplateRuntimeError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

_MUTATORS = {"append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"}
_MUTATORS |= {"update", "setdefault", "popitem", "add", "discard"}


class TemplateRefusal(TemplateRuntimeError):
    """The template called `raise_exception`: it does not accept this conversation."""


def environment_for(tree: nodes.Template) -> Environment:
    """The environment in which to compile a template.

    Few templates change a list or a dict in place, and only those are allowed to.
    """
    changes_values = any(node.attr in _MUTATORS for node in tree.find_all(nodes.Getattr))
    return _mutable_environment if changes_values else _immutable_environment


def parse(source: str) -> nodes.Template:
    """The tree of a template; TemplateSyntaxError."""
    return _immutable_environment.parse(source)


class _GenerationExtension(Extension):
    """Renders the body of `{% generation %}`, which marks the model's own text for training."""

    tags = {"generation"}  # noqa: RUF012  the form that jinja2 requires

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The body between `generation` and `endgeneration`."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: object) -> None:
    raise TemplateRefusal(str(message))


def _strftime_now(form: str) -> str:
    # Local time, as in transformers: a template prints the date for a person.
    return datetime.now().astimezone().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002, templates may pass it by position
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    # transformers' tojson: no HTML escapes, no sorting.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_plain,
    )


def _plain(value: Any) -> Any:
    # llama.cpp's deepseek-r1 template prints an iterator that `map` returns.
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _make_environment(kind: type[SandboxedEnvironment]) -> Environment:
    # As in transformers and llama.cpp; `optimized` would evaluate expressions while compiling.
    environment = kind(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[_GenerationExtension, "jinja2.ext.loopcontrols", "jinja2.ext.do"],
    )
    environment.filters |= {"tojson": _to_json, "from_json": json.loads}
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now}
    return environment


_immutable_environment = _make_environment(ImmutableSandboxedEnvironment)
_mutable_environment = _make_environment(SandboxedEnvironment)
