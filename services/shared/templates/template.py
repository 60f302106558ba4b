"""Compile and render a model's chat template, under limits.

The api renders prompts with it; the puller probes what a template can do (`traits.py`). A template
is part of a downloaded file, so it is untrusted: it runs in the sandbox of `sandbox.py`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import SecurityError

from services.shared.errors import InvalidModelFile, InvalidRequest
from services.shared.templates.render_limits import MAX_TEXT, TooExpensive
from services.shared.templates.sandbox import (
    TemplateRefusal,
    changes_input,
    environment_for,
    instrument,
    metered,
)

MAX_SOURCE = 256 << 10  # characters; the longest real template we know has 17 thousand
MAX_SECONDS = 2.0

Message = Mapping[str, Any]


class ChatTemplate:
    """One model's chat template. Creating it may raise InvalidModelFile; any thread may render."""

    def __init__(
        self, source: str, *, bos_token: str | None = None, eos_token: str | None = None
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise InvalidModelFile("the chat template is too long")
        self.source = source
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        try:
            tree = environment_for(changes_input=False).parse(source)
            self._changes_input = changes_input(tree)
            environment = environment_for(changes_input=self._changes_input)
            self._template = environment.from_string(instrument(tree))
        except TemplateSyntaxError as error:
            raise InvalidModelFile(
                f"the chat template is not valid Jinja, line {error.lineno}: {error.message}"
            ) from error
        except TooExpensive as error:
            raise InvalidModelFile(str(error)) from error
        except (TemplateError, RecursionError, SyntaxError, ValueError, TypeError) as error:
            raise InvalidModelFile("the chat template cannot be compiled") from error

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        max_seconds: float = MAX_SECONDS,
        **variables: Any,
    ) -> str:
        """The text of the prompt.

        Raises InvalidRequest with the template's own message when the template refuses the
        conversation (`raise_exception`), and InvalidModelFile when the template fails or exceeds
        its limits. `variables` are further names that a template may use (`enable_thinking`,
        `documents`).
        """
        # Without tools the name stays undefined, as in llama.cpp: more templates accept that than
        # None.
        given: dict[str, Any] = {"messages": list(messages)} | (
            {"tools": list(tools)} if tools else {}
        )
        if self._changes_input:
            given = copy.deepcopy(given)
        values = {**self._tokens, **_for_firefunction(tools), **variables, **given}
        values["add_generation_prompt"] = add_generation_prompt
        with _translated_errors():
            return self._render(values, max_seconds)

    def _render(self, values: Mapping[str, Any], max_seconds: float) -> str:
        pieces: list[str] = []
        length = 0
        with metered(max_seconds) as meter:
            for piece in self._template.generate(values):
                pieces.append(piece)
                length += len(piece)
                meter.tick()
                if length > MAX_TEXT:
                    raise TooExpensive("the chat template renders too long a prompt")
        return "".join(pieces)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except TemplateRefusal as error:
        raise InvalidRequest(f"the model's chat template says: {error}"[:500]) from error
    except TooExpensive as error:
        raise InvalidModelFile(str(error)) from error
    except (SecurityError, UndefinedError) as error:
        raise InvalidModelFile(f"the chat template failed: {error}"[:500]) from error
    except RecursionError as error:
        raise InvalidModelFile("the chat template calls itself endlessly") from error
    except Exception as error:
        raise InvalidModelFile(f"the chat template failed with {type(error).__name__}") from error


def _for_firefunction(tools: Sequence[Mapping[str, Any]] | None) -> dict[str, str]:
    # Two names that only firefunction and functionary use, with the values of llama.cpp.
    now = datetime.now(UTC)
    return {
        "functions": json.dumps(list(tools or ()), indent=4, default=dict),
        "datetime": now.strftime("%b %d %Y %H:%M:%S GMT"),
    }
