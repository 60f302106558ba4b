"""The Jinja environment for untrusted templates.

Jinja's sandbox blocks access to Python's internals, but it does not limit time and memory. So
everything that can grow or repeat is metered as well (`render_limits.py`): loops and macros tick,
joined and repeated values are bounded, and functions that pad check the width first. This needs no
thread and no signal: a render is a plain function call that any thread can make.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from jinja2 import Environment, TemplateRuntimeError, nodes, pass_environment
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

from services.shared.templates import render_limits
from services.shared.templates.render_limits import Meter, TooExpensive, bounded

# A template cannot spell these names, so it can neither call nor replace the filters.
_TICK = " tick"
_BOUND = " bound"

_FORBIDDEN_NODES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_MUTATORS = {"append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"}
_MUTATORS |= {"update", "setdefault", "popitem", "add", "discard"}
_USELESS_FILTERS = ("urlize", "pprint", "xmlattr", "random", "filesizeformat")
_LINE_FILTERS = ("indent", "center", "wordwrap")


class TemplateRefusal(TemplateRuntimeError):
    """The template called `raise_exception`: it does not accept this conversation."""


@contextmanager
def metered(seconds: float) -> Iterator[Meter]:
    """Meter what is rendered inside this block; the time limit is in seconds."""
    meter = Meter(seconds)
    token = render_limits.METER.set(meter)
    try:
        yield meter
    finally:
        render_limits.METER.reset(token)


def environment_for(*, changes_input: bool) -> Environment:
    """The environment in which to parse and compile a template."""
    return _mutable_environment if changes_input else _immutable_environment


def changes_input(tree: nodes.Template) -> bool:
    """Whether a template calls a method that changes a list or a dict in place.

    Such a template must be given copies.
    """
    return any(node.attr in _MUTATORS for node in tree.find_all(nodes.Getattr))


def instrument(tree: nodes.Template) -> nodes.Template:
    """Add ticks and bounds to a parsed template. Raises TooExpensive if it needs a loader."""
    if any(tree.find(kind) is not None for kind in _FORBIDDEN_NODES):
        raise TooExpensive("a chat template cannot include other files")
    repeating: list[nodes.For | nodes.Macro | nodes.CallBlock] = [
        *tree.find_all(nodes.For),
        *tree.find_all(nodes.Macro),
        *tree.find_all(nodes.CallBlock),
    ]
    for repeated in repeating:
        tick = nodes.Filter(nodes.Const(None), _TICK, [], [], None, None)
        repeated.body.insert(0, nodes.ExprStmt(tick))
    _bound_joins(tree)
    tree.set_environment(_immutable_environment)
    return tree


class _MeteredEnvironment(SandboxedEnvironment):
    """Checks operators and calls; the base of both environments."""

    intercepted_binops = frozenset(["+", "*", "%", "**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Evaluate an operator of the template, under the limits."""
        render_limits.check_operator(operator, left, right)
        return bounded(self.binop_table[operator](left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Make a call of the template (a method, macro or function), under the limits."""
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            render_limits.check_text_method(owner, getattr(obj, "__name__", ""), args)
        value = super().call(context, obj, *args, **kwargs)
        if isinstance(owner, list):
            bounded(owner)
        return bounded(value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Check the widths in the format string of `str.format`."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            render_limits.check_widths(value.__self__)
        return wrapped


class _ImmutableEnvironment(_MeteredEnvironment, ImmutableSandboxedEnvironment):
    """For templates that do not change their input, which is nearly all of them."""


class _GenerationExtension(Extension):
    """Renders the body of `{% generation %}`, which marks the model's own text for training."""

    tags = {"generation"}  # noqa: RUF012  the form that jinja2 requires

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The body between `generation` and `endgeneration`."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _bound_joins(node: nodes.Node) -> None:
    for name, value in list(node.iter_fields()):
        is_list = isinstance(value, list)
        setattr(node, name, [_bound_join(v) for v in value] if is_list else _bound_join(value))


def _bound_join(value: Any) -> Any:
    if not isinstance(value, nodes.Node):
        return value
    _bound_joins(value)
    if isinstance(value, nodes.Concat):
        return nodes.Filter(value, _BOUND, [], [], None, None, lineno=value.lineno)
    return value


def _tick(_: object) -> str:
    if (meter := render_limits.METER.get(None)) is not None:
        meter.tick()
    return ""


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that checks its arguments, ticks, and bounds its result."""

    @functools.wraps(function)  # keeps jinja's attributes, such as that of pass_environment
    def call(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        render_limits.check_padding(values)
        if name == "format":
            render_limits.check_widths(str(args[0]))
        if name in _LINE_FILTERS and isinstance(args[0], str):
            render_limits.check_indent(args[0], values)
        _tick(None)
        return bounded(function(*args, **kwargs))

    return call


@pass_environment
def _join(
    environment: Environment, value: Iterable[Any], d: str = "", attribute: str | None = None
) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    texts = [str(item) for item in value]
    render_limits.check_join(str(d), texts)
    return str(d).join(texts)


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
    for name in _USELESS_FILTERS:
        environment.filters.pop(name, None)
    environment.globals.pop("lipsum", None)
    environment.filters |= {"tojson": _to_json, "from_json": json.loads, "join": _join}
    environment.filters = {n: _metered_filter(n, f) for n, f in environment.filters.items()}
    environment.filters |= {_TICK: _tick, _BOUND: bounded}
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now}
    return environment


_immutable_environment = _make_environment(_ImmutableEnvironment)
_mutable_environment = _make_environment(_MeteredEnvironment)
