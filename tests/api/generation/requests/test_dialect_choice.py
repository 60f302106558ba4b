"""The dialect of a model's tool calls, from its chat template."""

from __future__ import annotations

from services.api.generation.requests.dialect_choice import DialectChoice
from services.api.parsing.parts import CallStarted
from services.api.parsing.tool_calls.base import ToolDialect
from tests.api.prompts.rendering import get_renderer, make_manifest

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
UNKNOWN = (
    "{{ tools }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "[[ask]]{{ c.function.name }}[[with]]{{ c.function.arguments | tojson }}[[/ask]]"
    "{% endfor %}\n{% endfor %}"
)
REFUSING = "{% if not tools %}{{ raise_exception('no tools') }}{% endif %}" + UNKNOWN


def choose(template: str) -> ToolDialect:
    return DialectChoice(get_renderer()).choose(make_manifest(template))


def test_a_known_template_has_its_dialect() -> None:
    assert choose(UNKNOWN + "{% set start = '[TOOL_CALLS]' %}").name == "mistral-list"


def test_a_template_that_shows_no_tools_has_the_dialect_of_our_prompt() -> None:
    assert choose(PLAIN).name == "hermes"


def test_an_unknown_template_shows_its_dialect_when_it_renders_a_call() -> None:
    parser = choose(UNKNOWN).open({"f": {}})
    parts = [*parser.feed('[[ask]]f[[with]]{"a": 1}[[/ask]]'), *parser.finish()]

    assert [part.name for part in parts if isinstance(part, CallStarted)] == ["f"]


def test_a_template_that_refuses_to_render_a_call_harms_no_request() -> None:
    assert choose(REFUSING).name == "hermes"


def test_the_dialect_of_a_template_is_found_once() -> None:
    choice = DialectChoice(get_renderer())
    manifest = make_manifest(UNKNOWN)

    assert choice.choose(manifest) is choice.choose(manifest)
