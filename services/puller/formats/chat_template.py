"""Extract the Jinja chat template of a model, or substitute one for a Go template.

Files of the hub hold one template, a list of named templates, or an empty string. Older models of
the Ollama registry have only a Go template. Its markers identify its family, and the plain Jinja
template of the family replaces it (system, user, assistant; no tools).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_TURNS = (
    "{{{{ bos_token }}}}{{% for message in messages %}}"
    "{{{{ {before} }}}}{{{{ message['content'] | trim }}}}{{{{ {after} }}}}"
    "{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {opening} }}}}{{% endif %}}"
)


@dataclass(frozen=True, slots=True)
class TemplateFamily:
    """Models with the same prompt format."""

    name: str
    markers: tuple[str, ...]  # the Go template contains all of them
    jinja: str


def _build_turns(before: str, after: str, opening: str) -> str:
    return _TURNS.format(before=before, after=after, opening=opening)


def _build_without_system(turns: str) -> str:
    # For families without a system role: the system prompt starts the first user message.
    return (
        "{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] | trim %}"
        "{% set messages = messages[1:] %}{% else %}{% set lead = '' %}{% endif %}" + turns
    )


_GEMMA = _build_without_system(
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' }}"
    "{{ lead + '\\n\\n' if loop.first and lead else '' }}{{ message['content'] | trim }}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_MISTRAL = _build_without_system(
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + eos_token }}{% else %}"
    "{{ '[INST] ' }}{{ lead + '\\n\\n' if loop.first and lead else '' }}"
    "{{ message['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
)
_LLAMA2 = _build_without_system(
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% else %}"
    "{{ bos_token + '[INST] ' }}"
    "{{ '<<SYS>>\\n' + lead + '\\n<</SYS>>\\n\\n' if loop.first and lead else '' }}"
    "{{ message['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
)

# The most specific markers first.
FAMILIES = (
    TemplateFamily(
        "chatml",
        ("<|im_start|>", "<|im_end|>"),
        _build_turns(
            "'<|im_start|>' + message['role'] + '\\n'",
            "'<|im_end|>\\n'",
            "'<|im_start|>assistant\\n'",
        ),
    ),
    TemplateFamily(
        "llama3",
        ("<|start_header_id|>", "<|eot_id|>"),
        _build_turns(
            "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'",
            "'<|eot_id|>'",
            "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'",
        ),
    ),
    TemplateFamily("gemma", ("<start_of_turn>", "<end_of_turn>"), _GEMMA),
    TemplateFamily(
        "phi3",
        ("<|user|>", "<|end|>"),
        _build_turns("'<|' + message['role'] + '|>\\n'", "'<|end|>\\n'", "'<|assistant|>\\n'"),
    ),
    TemplateFamily(
        "zephyr",
        ("<|user|>", "</s>"),
        _build_turns("'<|' + message['role'] + '|>\\n'", "'</s>\\n'", "'<|assistant|>\\n'"),
    ),
    TemplateFamily("llama2", ("<<SYS>>", "[INST]"), _LLAMA2),
    TemplateFamily("mistral", ("[INST]",), _MISTRAL),
    TemplateFamily(
        "alpaca",
        ("### Instruction:", "### Response:"),
        _build_turns(
            "{'system': '', 'user': '### Instruction:\\n'}.get(message['role'], '### Response:\\n')",
            "'\\n\\n'",
            "'### Response:\\n'",
        ),
    ),
    TemplateFamily(
        "vicuna",
        ("USER:", "ASSISTANT:"),
        _build_turns(
            "{'system': '', 'user': 'USER: '}.get(message['role'], 'ASSISTANT: ')",
            "'\\n'",
            "'ASSISTANT:'",
        ),
    ),
)


def extract_jinja(value: Any) -> str | None:
    """Return the template in a `chat_template` value, or None.

    The value is a template, a list of {"name", "template"}, or a mapping of names to templates. Of
    several, the one named "default" is used, else the first.
    """
    if isinstance(value, list):
        pairs = [(v.get("name"), v.get("template")) for v in value if isinstance(v, Mapping)]
        value = {str(name): text for name, text in pairs if isinstance(text, str)}
    if isinstance(value, Mapping):
        value = value.get("default") or next(iter(value.values()), None)
    if not isinstance(value, str):
        return None
    # Windows line ends would reach the prompt; a byte-order mark would precede BOS.
    text = value.removeprefix("\ufeff").replace("\r\n", "\n").replace("\x00", "")
    return text if text.strip() else None


def find_written_tokens(user_defined: Iterable[str], source: str) -> tuple[str, ...]:
    """The user-defined tokens that a template uses as marks, such as `<tool_call>`.

    Others are part of ordinary text (`<table>` and runs of spaces in Gemma), and so are words.
    """
    marks = (t for t in user_defined if not (t[0].isalnum() or t[-1].isalnum() or t.isspace()))
    return tuple(token for token in marks if len(token) > 2 and token in source)


def detect_go_template_family(go_template: str) -> TemplateFamily | None:
    """Return the family whose markers a Go template contains, or None."""
    for family in FAMILIES:
        if all(marker in go_template for marker in family.markers):
            return family
    return None
