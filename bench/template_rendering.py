"""What a process of its own adds to the render of a chat template.

    .venv/bin/python -m bench.template_rendering TEMPLATE.jinja …

prints, for each template, the median milliseconds of a render of a short chat in this process and
in one of its own, and the difference. Then: a prompt of 1 MiB of `<` with the control tokens of
Gemma, as the api renders it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from services.api.prompts.render import Conversation, PromptRenderer
from services.shared.store.manifest import Description, Manifest
from services.shared.templates.renderer import TemplateRenderer
from services.shared.templates.template import ChatTemplate

ROUNDS = 300
MESSAGES = [
    {"role": "user", "content": "What is the capital of France? " * 20},
    {"role": "assistant", "content": "Paris. " * 50},
    {"role": "user", "content": "And of Spain?"},
]
GEMMA = ("<bos>", "<eos>", *(f"<unused{number}>" for number in range(6243)))


def measure(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of the milliseconds that a call takes."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1000


def compare(renderer: TemplateRenderer, path: Path) -> str:
    source = path.read_text()
    variables = json.dumps({"messages": MESSAGES, "add_generation_prompt": True})
    here, there = ChatTemplate(source), renderer.open(source)
    inside = measure(lambda: here.render(json.loads(variables)))
    outside = measure(lambda: renderer.render(there, variables))
    return f"{path.stem:48} {inside:8.3f} {outside:8.3f} {outside - inside:8.3f}"


def measure_many_brackets() -> float:
    template = "<bos>{% for m in messages %}{{ m.content }}{% endfor %}"
    description = Description(
        format="gguf", architecture="gemma3", chat_template=template, control_tokens=GEMMA
    )
    manifest = Manifest(name="m", source="", created_at=0, files=(), description=description)
    long = Conversation(messages=[{"role": "user", "content": "<" * (1 << 20)}])
    renderer = PromptRenderer()
    try:
        renderer.render(manifest, long)
        return measure(lambda: renderer.render(manifest, long), rounds=10)
    finally:
        renderer.close()


def main() -> None:
    print(f"{'ms':48} {'inside':>8} {'process':>8} {'added':>8}")
    with TemplateRenderer() as renderer:
        for name in sys.argv[1:]:
            print(compare(renderer, Path(name)))
    print(f"1 MiB of '<', 6 245 control tokens: {measure_many_brackets():.0f} ms")


if __name__ == "__main__":
    main()
