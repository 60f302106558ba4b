"""What a chat template supports, and the names that belong to it. Imports no Jinja."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TemplateLanguage = Literal["jinja", "go"]  # go: Go's text/template with the data of Ollama

# The variables that we set, and what Jinja and we define for every template: a client's variables
# must not replace them. `self` and `loop` are Jinja's own.
RESERVED_NAMES = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "self", "loop"}
    | {"range", "dict", "lipsum", "cycler", "joiner", "namespace"}
    | {"raise_exception", "strftime_now"}
)


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What one template supports."""

    failure: str | None  # why the template cannot render even a plain question, or None
    system: bool = False  # a system message appears in the prompt
    tools: bool = False  # tool definitions appear in the prompt
    tool_calls: bool = False  # an earlier tool call of the assistant appears in the prompt
    several_calls: bool = False  # all calls of one message appear in the prompt
    tool_results: bool = False  # the result of a tool appears in the prompt
    arguments_as_object: bool = False  # a call's arguments must be an object, not JSON text
    content_parts: bool = False  # content may be a list of typed parts
    parts_only: bool = False  # content must be such a list
    thinking: bool = False  # the template supports reasoning
    thinking_switch: str | None = None  # the variable that turns reasoning on and off
    opens_thinking: bool = False  # the prompt ends inside the reasoning part
