"""Evaluate the tree of a Go template over its data.

A missing key of a map is nil, as with Ollama's option `missingkey=zero`; a missing field of a struct
is an error. Variables live to the end of their block; `=` changes the one that `:=` made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from services.shared.templates.go_template.errors import GoTemplateError
from services.shared.templates.go_template.functions import SHORT_CIRCUIT, call
from services.shared.templates.go_template.limits import MAX_DEPTH, Budget
from services.shared.templates.go_template.nodes import (
    Action,
    Body,
    Branch,
    Call,
    Chain,
    Dot,
    Field,
    Jump,
    Literal,
    Node,
    Operand,
    Pipeline,
    TemplateCall,
    Text,
    Variable,
)
from services.shared.templates.go_template.values import Record, is_true, to_text, type_name

_NOTHING = object()  # no value before the first command of a pipeline


def execute(body: Body, definitions: Mapping[str, Body], data: Any, budget: Budget) -> str:
    """What a body prints. Raises GoTemplateError with a line."""
    run = _Run(definitions, budget)
    try:
        run.print_body(body, data, _Scope(data))
    except RecursionError as error:
        raise GoTemplateError("it is nested too deeply", run.line) from error
    except GoTemplateError as error:
        error.line = error.line or run.line
        raise
    return "".join(run.output)


class _Scope:
    """The variables that a place sees, the innermost last. The first is `$`."""

    __slots__ = ("_variables",)

    def __init__(self, data: Any) -> None:
        self._variables: list[tuple[str, Any]] = [("", data)]

    def declare(self, name: str, value: Any) -> None:
        self._variables.append((name, value))

    def assign(self, name: str, value: Any) -> None:
        self._variables[self._find(name)] = (name, value)

    def get(self, name: str) -> Any:
        return self._variables[self._find(name)][1]

    def mark(self) -> int:
        return len(self._variables)

    def leave(self, mark: int) -> None:
        """Forget the variables that were declared since."""
        del self._variables[mark:]

    def _find(self, name: str) -> int:
        for place in range(len(self._variables) - 1, -1, -1):
            if self._variables[place][0] == name:
                return place
        raise GoTemplateError(f"the variable ${name} is not defined")


class _Run:
    """One render."""

    def __init__(self, definitions: Mapping[str, Body], budget: Budget) -> None:
        self.output: list[str] = []
        self.line = 1  # of what is being evaluated
        self._definitions = definitions
        self._budget = budget
        self._depth = 0

    def print_body(self, body: Body, dot: Any, scope: _Scope) -> str:
        """Print nodes; the keyword of the jump that ended them, or nothing."""
        for node in body:
            self._budget.step()
            self.line = node.line
            if jump := self._print_node(node, dot, scope):
                return jump
        return ""

    def _print_node(self, node: Node, dot: Any, scope: _Scope) -> str:
        match node:
            case Text():
                self._print(node.text)
            case Action():
                value = self._run_pipeline(node.pipeline, dot, scope)
                if not node.pipeline.variables:
                    self._print("<no value>" if value is None else to_text(value))
            case Branch(keyword="range"):
                return self._range(node, dot, scope)
            case Branch():
                return self._branch(node, dot, scope)
            case TemplateCall():
                self._call_template(node, dot, scope)
            case Jump():
                return node.keyword
        return ""

    def _print(self, text: str) -> None:
        self._budget.make(len(text))
        self.output.append(text)

    def _branch(self, node: Branch, dot: Any, scope: _Scope) -> str:
        mark = scope.mark()
        value = self._run_pipeline(node.pipeline, dot, scope)
        if is_true(value):
            inner = value if node.keyword == "with" else dot
            jump = self.print_body(node.body, inner, scope)
        else:
            jump = self.print_body(node.otherwise, dot, scope)
        scope.leave(mark)
        return jump

    def _range(self, node: Branch, dot: Any, scope: _Scope) -> str:
        outer = scope.mark()
        pipeline = node.pipeline
        value = self._run_commands(pipeline, dot, scope)
        if not pipeline.assigns:
            for name in pipeline.variables:
                scope.declare(name, None)
        mark, is_empty = scope.mark(), True
        for key, item in _iterate(value):
            is_empty = False
            self._budget.step()
            # One variable is the item, two are the key and the item.
            values = (item,) if len(pipeline.variables) == 1 else (key, item)
            for name, part in zip(pipeline.variables, values, strict=False):
                scope.assign(name, part)
            jump = self.print_body(node.body, item, scope)
            scope.leave(mark)
            if jump == "break":
                break
        jump = self.print_body(node.otherwise, dot, scope) if is_empty else ""
        scope.leave(outer)
        return jump

    def _call_template(self, node: TemplateCall, dot: Any, scope: _Scope) -> None:
        data = None if node.pipeline is None else self._run_pipeline(node.pipeline, dot, scope)
        body = self._definitions.get(node.name)
        if body is None:
            raise GoTemplateError(f"there is no template {node.name[:40]!r}")
        if self._depth >= MAX_DEPTH:
            raise GoTemplateError(f"templates call each other more than {MAX_DEPTH} levels deep")
        self._depth += 1
        self.print_body(body, data, _Scope(data))
        self._depth -= 1

    def _run_pipeline(self, pipeline: Pipeline, dot: Any, scope: _Scope) -> Any:
        value = self._run_commands(pipeline, dot, scope)
        for name in pipeline.variables:
            if pipeline.assigns:
                scope.assign(name, value)
            else:
                scope.declare(name, value)
        return value

    def _run_commands(self, pipeline: Pipeline, dot: Any, scope: _Scope) -> Any:
        self.line = pipeline.line
        value: Any = _NOTHING
        for command in pipeline.commands:
            if isinstance(command, Call):
                value = self._call(command, value, dot, scope)
            else:
                value = self._evaluate(command, dot, scope)
        return value

    def _call(self, node: Call, piped: Any, dot: Any, scope: _Scope) -> Any:
        self._budget.step()
        if node.name in SHORT_CIRCUIT:
            return self._call_logic(node, piped, dot, scope)
        arguments = [self._evaluate(argument, dot, scope) for argument in node.arguments]
        if piped is not _NOTHING:
            arguments.append(piped)
        return call(node.name, arguments, self._budget)

    def _call_logic(self, node: Call, piped: Any, dot: Any, scope: _Scope) -> Any:
        """`and` ends at the first false argument, `or` at the first true one; either is its value."""
        value: Any = _NOTHING
        for argument in node.arguments:
            value = self._evaluate(argument, dot, scope)
            if is_true(value) is (node.name == "or"):
                return value
        value = value if piped is _NOTHING else piped
        if value is _NOTHING:
            raise GoTemplateError(f"`{node.name}` needs an argument")
        return value

    def _evaluate(self, operand: Operand, dot: Any, scope: _Scope) -> Any:
        self._budget.step()
        match operand:
            case Literal():
                return operand.value
            case Dot():
                return dot
            case Field():
                return _read_fields(dot, operand.names)
            case Variable():
                return _read_fields(scope.get(operand.name), operand.names)
            case Pipeline():
                return self._run_pipeline(operand, dot, scope)
            case Chain():
                return _read_fields(self._run_pipeline(operand.base, dot, scope), operand.names)
            case Call():
                return self._call(operand, _NOTHING, dot, scope)


def _read_fields(value: Any, names: Iterable[str]) -> Any:
    for name in names:
        if isinstance(value, Record):
            if name not in value.fields:
                raise GoTemplateError(f"there is no field .{name[:40]}")
            value = value.fields[name]
        elif isinstance(value, dict):
            value = value.get(name)
        elif value is None:
            raise GoTemplateError(f"nil has no field .{name[:40]}")
        else:
            raise GoTemplateError(f"a {type_name(value)} has no field .{name[:40]}")
    return value


def _iterate(value: Any) -> Iterable[tuple[Any, Any]]:
    """The keys and items that `range` goes through; the keys of a map in order."""
    if isinstance(value, list):
        return enumerate(value)
    if isinstance(value, dict):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, int) and not isinstance(value, bool):
        return ((number, number) for number in range(max(0, value)))
    if isinstance(value, str):
        return _iterate_text(value)
    if value is None:
        return ()
    raise GoTemplateError(f"range cannot go through a {type_name(value)}")


def _iterate_text(text: str) -> Iterable[tuple[int, int]]:
    place = 0
    for char in text:
        yield place, ord(char)
        place += len(char.encode("utf-8", "replace"))
