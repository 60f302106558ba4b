"""Compile and render a model's chat template.

A template is part of a downloaded file, so it is a stranger's program: this module runs only in the
process of `renderer_main.py`, under its limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol

from jinja2 import TemplateSyntaxError, nodes

from services.shared.errors import InvalidModelFile, InvalidRequest
from services.shared.templates.marks import build_mark
from services.shared.templates.sandbox import TemplateRefusal, environment_for, parse

MAX_SOURCE = 256 << 10  # characters; the longest real template we know has 17 thousand

_LOADING_NODES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_FILE_NAME = "<template>"  # in tracebacks; jinja2's name for a template without a file
_MAX_REFUSAL = 500


class TemplateFailed(Exception):
    """A render failed. `detail` may quote the conversation; the other fields do not."""

    def __init__(self, kind: str, line: int | None, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.line = line
        self.detail = detail


class TemplateExceeded(TemplateFailed):
    """A render was ended at the limits of the template's own interpreter."""


class RenderedTemplate(Protocol):
    """A template of any language, ready to render. A render may change the variables.

    Raises InvalidRequest when the template refuses the conversation, TemplateFailed when it fails.
    """

    marked: tuple[str, ...]

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text of the prompt."""


class ChatTemplate:
    """One model's chat template. Creating it may raise InvalidModelFile.

    `control_tokens` in the template's own text become marks with `mark_prefix`. `marked` lists
    these tokens; the one at index n has the mark n + 1. The mark 0 is left to the caller.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        control_tokens: Iterable[str] = (),
        mark_prefix: str = "",
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise InvalidModelFile("the chat template is too long")
        with _compile_errors():
            tree = parse(source)
            if any(tree.find(kind) is not None for kind in _LOADING_NODES):
                raise InvalidModelFile("a chat template cannot include other files")
            self._used_names = {node.name for node in tree.find_all(nodes.Name)}
            self.marked = _find_written(tree, control_tokens, also={bos_token, eos_token})
            self._marks = {
                token: build_mark(mark_prefix, number)
                for number, token in enumerate(self.marked, start=1)
            }
            _replace_texts(tree, self._marks)
            self._template = environment_for(tree).from_string(tree)
        tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self._tokens = {name: self._marks.get(token, token) for name, token in tokens.items()}

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text of the prompt. The template may change the variables.

        Raises InvalidRequest with the template's own message when the template refuses the
        conversation (`raise_exception`), and TemplateFailed when it fails.
        """
        values = {**self._tokens, **self._rare_variables(variables), **variables}
        # Without tools the name stays undefined, as in llama.cpp: more templates accept that than
        # None.
        if not values.get("tools"):
            values.pop("tools", None)
        with self._render_errors():
            return self._template.render(values)

    @contextmanager
    def _render_errors(self) -> Iterator[None]:
        try:
            yield
        except TemplateRefusal as error:
            text = str(error)
            for token, mark in self._marks.items():
                text = text.replace(mark, token)
            message = f"the model's chat template says: {text}"
            raise InvalidRequest(message[:_MAX_REFUSAL]) from error
        except MemoryError:
            raise
        except Exception as error:  # whatever a stranger's program does
            line = _find_line(error.__traceback__)
            raise TemplateFailed(type(error).__name__, line, str(error)[:_MAX_REFUSAL]) from error

    def _rare_variables(self, variables: Mapping[str, Any]) -> dict[str, str]:
        """Two names that only firefunction and functionary use, with the values of llama.cpp."""
        rare = {}
        if "functions" in self._used_names:
            rare["functions"] = json.dumps(variables.get("tools") or [], indent=4)
        if "datetime" in self._used_names:
            rare["datetime"] = datetime.now(UTC).strftime("%b %d %Y %H:%M:%S GMT")
        return rare


def _find_written(
    tree: nodes.Template, tokens: Iterable[str], *, also: set[str | None]
) -> tuple[str, ...]:
    """The tokens that occur in the template's own texts, or in `also`; the longest first."""
    written = "\0".join(_text(node) for node in _find_texts(tree))
    found = {token for token in tokens if token and (token in written or token in also)}
    return tuple(sorted(found, key=lambda token: (-len(token), token)))


def _replace_texts(tree: nodes.Template, marks: Mapping[str, str]) -> None:
    if not marks:
        return
    pattern = re.compile("|".join(map(re.escape, marks)))
    for node in _find_texts(tree):
        text = pattern.sub(lambda match: marks[match[0]], _text(node))
        if isinstance(node, nodes.TemplateData):
            node.data = text
        else:
            node.value = text


def _find_texts(tree: nodes.Template) -> list[nodes.TemplateData | nodes.Const]:
    data = tree.find_all(nodes.TemplateData)
    return [*data, *(c for c in tree.find_all(nodes.Const) if isinstance(c.value, str))]


def _text(node: nodes.TemplateData | nodes.Const) -> str:
    return str(node.data if isinstance(node, nodes.TemplateData) else node.value)


@contextmanager
def _compile_errors() -> Iterator[None]:
    try:
        yield
    except TemplateSyntaxError as error:
        raise InvalidModelFile(
            f"the chat template is not valid Jinja, line {error.lineno}: {error.message}"[:500]
        ) from error
    except (InvalidModelFile, MemoryError):
        raise
    except Exception as error:  # Jinja and Python fail in many ways on what is no template
        raise InvalidModelFile("the chat template cannot be compiled") from error


def _find_line(traceback: TracebackType | None) -> int | None:
    """The line of the template that failed, the innermost one."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILE_NAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
