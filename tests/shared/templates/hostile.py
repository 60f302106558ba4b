"""Templates that take all the time or memory they can get, each once `strike` is set.

    python -m tests.shared.templates.hostile

prints, as JSON, how each one ends under small limits, and how much the memory of the process that
asked for the renders has grown at its peak.
"""

from __future__ import annotations

import json
import resource
import sys

from services.shared.errors import SpindllError
from services.shared.templates.renderer import TemplateRenderer
from services.shared.templates.renderer_process import RenderLimits

LIMITS = RenderLimits(cpu_seconds=0.5, memory_bytes=96 << 20, wall_seconds=60)
_TEXT = "{% set a = 'x' * 16000000 %}"

# By the review of the first sandbox: what no check of arguments had seen.
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling macros": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "powers": "{{ 9 ** (9 ** 9) }}",
    "repetition": "{{ 'a' * 10 ** 10 }}",
    "doubling with ~": _TEXT + "{% set a = a ~ a %}" * 12 + "{{ a }}",
    "doubling a list": "{% set l = [1] * 1000000 %}" + "{% do l.extend(l) %}" * 12,
    "lists in one expression": "{{ [" + ",".join(["[0] * 1000000"] * 40) + "] | length }}",
    "a chain of ~": _TEXT + "{% set b = " + "~".join(["a"] * 40) + " %}",
    "a set block": _TEXT + "{% set b %}" + "{{ a }}{{ a }}" * 40 + "{% endset %}",
    "a macro's output": _TEXT + "{% macro m() %}" + "{{ a ~ 1 }}" * 40 + "{% endmacro %}{{ m() }}",
    "percent with a tuple": _TEXT + "{{ ('%s' * 40) % (" + ",".join(["a"] * 40) + ") }}",
    "format": _TEXT + "{{ ('{0}' * 40).format(a) }}",
    "a wide format": "{{ '%*d' % (999999999, 1) }}",
    "the filter replace": "{{ ('a' * 4000) | replace('', 'b' * 2000000) | length }}",
    "wordwrap": "{{ ('a ' * 4000) | wordwrap(1, true, 'b' * 2000000) | length }}",
    "join of a generator": "{{ ('b' * 1000000).join(range(8000) | map('string')) | length }}",
    "separators of json": "{{ ([0] * 8000) | tojson(separators=('b' * 1000000, ':')) | length }}",
    "indented json": "{{ ([0] * 100000) | tojson(indent=4096) | length }}",
    "padding": "{{ 'a'.ljust(10 ** 10) }}",
    "strftime": "{{ strftime_now('%c' * 20000000) | length }}",
    "counting": _TEXT + "{{ [" + ",".join(["a.count('y')"] * 400) + "] }}",
    "words": _TEXT + "{{ [" + ",".join(["a | wordcount"] * 100) + "] }}",
    "a long prompt": "{% for i in range(99999) %}{{ 'a' * 4000 }}{% endfor %}",
    "a prompt of many bytes": "{{ '\u00e9' * 4500000 }}",
}


def strike(renderer: TemplateRenderer, source: str) -> str:
    """How a template ends: the class and the message of the error."""
    honest = "{{ messages[0].content }}"
    variables = {"messages": [{"role": "user", "content": "hi"}], "strike": True}
    try:
        template = renderer.open(f"{honest}{{% if strike is defined %}}{source}{{% endif %}}")
        return f"rendered {len(renderer.render(template, json.dumps(variables)))} characters"
    except SpindllError as error:
        return f"{type(error).__name__}: {error.message}"


def main() -> None:
    unit = 1 if sys.platform == "darwin" else 1024
    with TemplateRenderer(LIMITS, max_processes=1) as renderer:
        strike(renderer, "")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ends = {name: strike(renderer, source) for name, source in HOSTILE.items()}
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"ends": ends, "grown_bytes": (after - before) * unit}))


if __name__ == "__main__":
    main()
