"""Hostile Go templates end at the interpreter's own limits, in order and with a reason."""

from __future__ import annotations

import pytest

from services.shared.templates.go_template.chat import GoChatTemplate
from services.shared.templates.template import TemplateExceeded, TemplateFailed


def render(source: str) -> str:
    messages = [{"role": "user", "content": "Hello"}]
    return GoChatTemplate(source).render({"messages": messages})


DOUBLING = "{{ $x := `12345678` }}{{ range 40 }}{{ $x = %s }}{{ end }}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ range 99999 }}{{ range 99999 }}{{ end }}{{ end }}", "it takes too many steps"),
        ("{{ range 99999999999999 }}{{ end }}", "it takes too many steps"),
        (DOUBLING % "print $x $x", "it makes too much text"),
        (DOUBLING % "printf `%s%s` $x $x", "it makes too much text"),
        (DOUBLING % "html $x $x", "it makes too much text"),
        (DOUBLING % "urlquery $x $x", "it makes too much text"),
        ("{{ range 99 }}{{ $x := printf `%999999d` 1 }}{{ end }}", "it makes too much text"),
        (
            "{{ $x := printf `%999999d` 1 }}{{ range 99 }}{{ $x }}{{ end }}",
            "it makes too much text",
        ),
        (
            "{{ $x := printf `%999999d` 1 }}{{ range 99 }}{{ $y := json $x }}{{ end }}",
            "it makes too much text",
        ),
    ],
)
def test_a_hostile_template_ends_at_a_limit(source: str, reason: str) -> None:
    with pytest.raises(TemplateExceeded, match=reason):
        render(f"t{{{{ .Messages }}}}{source}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ define `t` }}{{ template `t` . }}{{ end }}{{ template `t` . }}",
        "{{ define `t` }}{{ template `t` . }}{{ template `t` . }}{{ end }}{{ template `t` . }}",
        "{{ define `t` }}"
        + "{{ if true }}" * 60
        + "{{ template `t` }}"
        + "{{ end }}" * 61
        + "{{ template `t` }}",
    ],
    ids=["endless", "doubling", "nested"],
)
def test_templates_that_call_themselves_without_end_fail(source: str) -> None:
    with pytest.raises(TemplateFailed, match="deep"):
        render(f"t{source}{{{{ .Messages }}}}")
