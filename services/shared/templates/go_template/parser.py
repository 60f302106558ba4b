"""Parse a Go template into its tree. Raises nothing but GoTemplateError.

The grammar is that of text/template/parse: commands have arguments apart by spaces, pipelines have
commands apart by `|`, and `(…)` is a pipeline as an argument.
"""

from __future__ import annotations

from collections.abc import Collection

from services.shared.templates.go_template.errors import GoTemplateError
from services.shared.templates.go_template.lexer import Kind, Token, lex
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
    Tree,
    Variable,
)

MAX_NESTING = 64  # of blocks and parentheses together; the deepest real template has 9
_CONSTANTS = {"true": True, "false": False, "nil": None}
_BLOCKS = {"if", "with", "range"}


def parse(source: str, functions: Collection[str]) -> Tree:
    """The tree of a template that may call these functions."""
    return _Parser(source, functions).parse()


class _Parser:
    def __init__(self, source: str, functions: Collection[str]) -> None:
        self._tokens = list(lex(source))
        self._position = 0
        self._functions = functions
        self._definitions: dict[str, Body] = {}
        self._variables = [""]  # those in scope; "" is `$`
        self._nesting = 0
        self._loops = 0

    def parse(self) -> Tree:
        body, end = self._parse_body(())
        if end != "":
            raise self._error("the template has an `end` or `else` too many")
        return Tree(body, self._definitions)

    def _parse_body(self, ends: Collection[str]) -> tuple[Body, str]:
        """The nodes up to one of the keywords `ends`, and that keyword; its rest is not read."""
        nodes: list[Node] = []
        while True:
            token = self._next()
            if token.kind is Kind.TEXT:
                if token.text:
                    nodes.append(Text(token.line, token.text))
                continue
            if token.kind is Kind.END:
                if ends:
                    raise self._error("a block has no `end`", token)
                return tuple(nodes), ""
            keyword = self._peek().text if self._peek().kind is Kind.NAME else ""
            if keyword in {"end", "else"}:
                if keyword not in ends:
                    raise self._error(f"`{keyword}` stands where no block is open")
                self._next()
                return tuple(nodes), keyword
            node = self._parse_action(token.line, keyword)
            if node is not None:
                nodes.append(node)

    def _parse_action(self, line: int, keyword: str) -> Node | None:
        if keyword in _BLOCKS:
            self._next()
            return self._parse_branch(line, keyword)
        if keyword == "define":
            self._next()
            self._parse_definition(self._parse_name(), expects_close=True)
            return None
        if keyword in {"template", "block"}:
            self._next()
            return self._parse_template(line, keyword)
        if keyword in {"break", "continue"}:
            self._next()
            self._expect_close()
            if not self._loops:
                raise GoTemplateError(f"`{keyword}` stands outside of a range", line)
            return Jump(line, keyword)
        pipeline = self._parse_pipeline()
        self._expect_close()
        return Action(line, pipeline)

    def _parse_branch(self, line: int, keyword: str) -> Branch:
        """After its keyword, up to its `end`. The variables of the block end with it."""
        known = len(self._variables)
        self._enter()
        pipeline = self._parse_pipeline(is_range=keyword == "range")
        self._expect_close()
        self._loops += keyword == "range"
        body, end = self._parse_body(("end", "else"))
        self._loops -= keyword == "range"
        otherwise: Body = ()
        if end == "else":
            otherwise = self._parse_else(keyword)
        else:
            self._expect_close()
        self._nesting -= 1
        del self._variables[known:]
        return Branch(line, keyword, pipeline, body, otherwise)

    def _parse_else(self, keyword: str) -> Body:
        token = self._peek()
        if token.kind is Kind.NAME and token.text == keyword and keyword != "range":
            self._next()  # `else if`: a block of its own, closed by the same `end`
            return (self._parse_branch(token.line, keyword),)
        self._expect_close()
        body, _ = self._parse_body(("end",))
        self._expect_close()
        return body

    def _parse_definition(self, name: str, *, expects_close: bool) -> None:
        """Read a body up to its `end`; it sees no variables of what is around it."""
        if expects_close:
            self._expect_close()
        outer, self._variables = self._variables, [""]
        loops, self._loops = self._loops, 0
        self._enter()
        body, _ = self._parse_body(("end",))
        self._expect_close()
        self._nesting -= 1
        self._variables, self._loops = outer, loops
        self._definitions[name] = body

    def _parse_template(self, line: int, keyword: str) -> TemplateCall:
        name = self._parse_name()
        pipeline = None
        if keyword == "block" or self._peek().kind is not Kind.CLOSE:
            pipeline = self._parse_pipeline()
        self._expect_close()
        if keyword == "block":
            self._parse_definition(name, expects_close=False)
        return TemplateCall(line, name, pipeline)

    def _parse_name(self) -> str:
        token = self._next()
        if token.kind is not Kind.STRING:
            raise self._error("the name of a template is a string", token)
        return str(token.value)

    def _parse_pipeline(self, *, is_range: bool = False) -> Pipeline:
        line = self._peek().line
        names, assigns = self._parse_variables(is_range=is_range)
        commands = [self._parse_command()]
        while self._peek().text == "|" and self._peek().kind is Kind.SIGN:
            self._next()
            command = self._parse_command()
            if not isinstance(command, Call):
                raise self._error("only a function can follow `|`")
            commands.append(command)
        if not assigns:
            self._variables += names
        return Pipeline(line, tuple(commands), tuple(names), assigns)

    def _parse_variables(self, *, is_range: bool) -> tuple[list[str], bool]:
        """The variables that a pipeline sets, and whether they exist already."""
        start, names = self._position, []
        while self._peek().kind is Kind.VARIABLE:
            names.append(self._next().text[1:])
            sign = self._next()
            if sign.kind is Kind.SIGN and sign.text in {":=", "="}:
                if len(names) > (2 if is_range else 1) or (sign.text == ":=" and "" in names):
                    raise self._error("too many variables are set at once", sign)
                if sign.text == "=":
                    for name in names:
                        self._check_variable(name, sign)
                return names, sign.text == "="
            if sign.text != "," or not is_range:
                break
        self._position = start
        return [], False

    def _parse_command(self) -> Operand:
        """A function with its arguments, or one value."""
        token = self._peek()
        if token.kind is Kind.NAME and token.text not in _CONSTANTS:
            self._next()
            if token.text not in self._functions:
                raise self._error(f"there is no function {token.text!r}", token)
            arguments = []
            while (argument := self._parse_operand()) is not None:
                arguments.append(argument)
            return Call(token.text, tuple(arguments))
        value = self._parse_operand()
        if value is None:
            raise self._error(f"a value is missing before {token.text!r}", token)
        if self._parse_operand() is not None:
            raise self._error("a value that is no function has arguments", token)
        return value

    def _parse_operand(self) -> Operand | None:
        token = self._peek()
        if token.kind in {Kind.CLOSE, Kind.END} or (token.kind, token.text) in _ENDS:
            return None
        self._next()
        match token.kind:
            case Kind.STRING | Kind.NUMBER:
                return Literal(token.value)
            case Kind.DOT:
                return Dot()
            case Kind.FIELD:
                return Field((token.text, *self._parse_fields()))
            case Kind.VARIABLE:
                self._check_variable(token.text[1:], token)
                return Variable(token.text[1:], self._parse_fields())
            case Kind.NAME if token.text in _CONSTANTS:
                return Literal(_CONSTANTS[token.text])
            case Kind.NAME if token.text in self._functions:
                return Call(token.text)
            case Kind.NAME:
                raise self._error(f"there is no function {token.text!r}", token)
            case Kind.SIGN if token.text == "(":
                return self._parse_parentheses()
        raise self._error(f"{token.text!r} is not expected here", token)

    def _parse_parentheses(self) -> Operand:
        self._enter()
        inner = self._parse_pipeline()
        if self._next().text != ")":
            raise self._error("`)` is missing")
        self._nesting -= 1
        names = self._parse_fields()
        return Chain(inner, names) if names else inner

    def _parse_fields(self) -> tuple[str, ...]:
        names = []
        while self._peek().kind is Kind.FIELD and self._peek().is_joined:
            names.append(self._next().text)
        return tuple(names)

    def _check_variable(self, name: str, token: Token) -> None:
        if name not in self._variables:
            raise self._error(f"the variable ${name} is not defined", token)

    def _enter(self) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._error(f"the template is nested more than {MAX_NESTING} levels deep")

    def _expect_close(self) -> None:
        token = self._next()
        if token.kind is not Kind.CLOSE:
            raise self._error(f"{token.text!r} is not expected here", token)

    def _peek(self) -> Token:
        return self._tokens[self._position]

    def _next(self) -> Token:
        token = self._tokens[self._position]
        if token.kind is not Kind.END:
            self._position += 1
        return token

    def _error(self, message: str, token: Token | None = None) -> GoTemplateError:
        return GoTemplateError(message[:200], (token or self._peek()).line)


_ENDS = {(Kind.SIGN, "|"), (Kind.SIGN, ")")}
