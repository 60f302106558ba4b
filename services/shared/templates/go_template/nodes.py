"""The tree of a Go template. Each node has the line that it starts in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; None is `nil`."""

    value: str | float | bool | None


@dataclass(frozen=True, slots=True)
class Dot:
    """The current value, `.`."""


@dataclass(frozen=True, slots=True)
class Field:
    """Fields of the current value, `.A.B`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name.A.B`; the name is empty for `$`."""

    name: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """Fields of a pipeline's value, `(…).A.B`."""

    base: Pipeline
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments, to which a pipeline adds the value before it."""

    name: str
    arguments: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`$a, $b := command | command`. Without a call, a command is one value."""

    line: int
    commands: tuple[Operand, ...]
    variables: tuple[str, ...] = ()
    assigns: bool = False  # = instead of :=


@dataclass(frozen=True, slots=True)
class Text:
    """What is printed as it is."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """A pipeline whose value is printed, unless it sets a variable."""

    line: int
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`, with what `else` has."""

    line: int
    keyword: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class TemplateCall:
    """`{{ template "name" pipeline }}`; a block is its definition and its call."""

    line: int
    name: str
    pipeline: Pipeline | None


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    line: int
    keyword: str


Operand = Literal | Dot | Field | Variable | Chain | Call | Pipeline
Node = Text | Action | Branch | TemplateCall | Jump
Body = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole template: its body, and the bodies of its definitions by name."""

    body: Body
    definitions: dict[str, Body]

    def find_names(self) -> set[str]:
        """All names of fields, as they are written."""
        bodies = (self.body, *self.definitions.values())
        operands = (o for body in bodies for o in _walk_operands(body))
        return {
            name for o in operands if isinstance(o, Field | Variable | Chain) for name in o.names
        }

    def find_texts(self) -> Iterator[str]:
        """The texts and the string constants of the template."""
        for body in (self.body, *self.definitions.values()):
            yield from (node.text for node in walk(body) if isinstance(node, Text))
            for operand in _walk_operands(body):
                if isinstance(operand, Literal) and isinstance(operand.value, str):
                    yield operand.value


def walk(body: Iterable[Node]) -> Iterator[Node]:
    """All nodes, each before those inside it."""
    for node in body:
        yield node
        if isinstance(node, Branch):
            yield from walk(node.body)
            yield from walk(node.otherwise)


def _walk_operands(body: Iterable[Node]) -> Iterator[Operand]:
    for node in walk(body):
        if isinstance(node, Action | Branch | TemplateCall) and node.pipeline is not None:
            yield from walk_pipeline(node.pipeline)


def walk_pipeline(operand: Operand) -> Iterator[Operand]:
    """An operand and all that it contains."""
    yield operand
    inner: tuple[Operand, ...] = ()
    if isinstance(operand, Pipeline):
        inner = operand.commands
    elif isinstance(operand, Call):
        inner = operand.arguments
    elif isinstance(operand, Chain):
        inner = (operand.base,)
    for part in inner:
        yield from walk_pipeline(part)


def cut_after_field(body: Body, name: str) -> Body:
    """The body without all that follows the first action that prints this field."""
    return _cut(body, name)[0]


def _cut(body: Body, name: str) -> tuple[Body, bool]:
    kept: list[Node] = []
    for node in body:
        if isinstance(node, Branch):
            inner, was_cut = _cut(node.body, name)
            otherwise = ((), True) if was_cut else _cut(node.otherwise, name)
            kept.append(replace(node, body=inner, otherwise=otherwise[0]))
            if otherwise[1]:
                return tuple(kept), True
            continue
        kept.append(node)
        if isinstance(node, Action) and any(
            isinstance(o, Field) and name in o.names for o in walk_pipeline(node.pipeline)
        ):
            return tuple(kept), True
    return tuple(kept), False


def map_texts(tree: Tree, change: Callable[[str], str]) -> Tree:
    """The tree with its texts and string constants changed."""
    definitions = {name: _map_body(body, change) for name, body in tree.definitions.items()}
    return Tree(_map_body(tree.body, change), definitions)


def _map_body(body: Body, change: Callable[[str], str]) -> Body:
    return tuple(_map_node(node, change) for node in body)


def _map_node(node: Node, change: Callable[[str], str]) -> Node:
    if isinstance(node, Text):
        return replace(node, text=change(node.text))
    if isinstance(node, Branch):
        node = replace(
            node, body=_map_body(node.body, change), otherwise=_map_body(node.otherwise, change)
        )
    if isinstance(node, Jump) or node.pipeline is None:
        return node
    return replace(node, pipeline=_map_pipeline(node.pipeline, change))


def _map_pipeline(pipeline: Pipeline, change: Callable[[str], str]) -> Pipeline:
    return replace(pipeline, commands=tuple(_map_operand(c, change) for c in pipeline.commands))


def _map_operand(operand: Operand, change: Callable[[str], str]) -> Operand:
    match operand:
        case Literal(value=str() as text):
            return Literal(change(text))
        case Call():
            changed = tuple(_map_operand(argument, change) for argument in operand.arguments)
            return replace(operand, arguments=changed)
        case Chain():
            return replace(operand, base=_map_pipeline(operand.base, change))
        case Pipeline():
            return _map_pipeline(operand, change)
    return operand
