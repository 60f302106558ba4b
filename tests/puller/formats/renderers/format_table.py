"""The table of our prompt formats in docs/reference.

    python -m tests.puller.formats.renderers.format_table

prints it.
"""

from __future__ import annotations

from services.puller.formats.renderers.renderer_table import FORMATS, find_template
from services.shared.templates.traits import TemplateTraits
from tests.api.parsing.tool_calls.round_trips import read_traits


def read_own(renderer: str) -> str:
    """Our template for a renderer that we know."""
    source = find_template(renderer)
    assert source is not None
    return source


def has_tools(traits: TemplateTraits) -> bool:
    return traits.tools and traits.tool_calls and traits.several_calls and traits.tool_results


def format_table() -> str:
    """The table as Markdown."""
    lines = [
        "| renderer | format published in | tools | thinking | architectures | loads |",
        "|-|-|-|-|-|-|",
    ]
    for renderer, found in FORMATS.items():
        traits = read_traits(read_own(renderer))
        answers = (has_tools(traits), traits.thinking, found.loads)
        tools, thinking, loads = ("yes" if answer else "no" for answer in answers)
        architectures = ", ".join(found.architectures)
        lines.append(
            f"| {renderer} | {found.published} | {tools} | {thinking} | {architectures} | {loads} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(format_table())
