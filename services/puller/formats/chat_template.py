"""Chat templates as files carry them, made into one Jinja text; and substitutes for Go templates.

Hub files hold a text, a list of named ones, or nothing in an empty string. Older models of the
Ollama registry carry a Go template only: its family is told by its markers, and the family's plain
Jinja template takes its place (system, user, assistant; no tools).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TURNS = (
    "{{{{ bos_token }}}}{{% for message in messages %}}"
    "{{{{ {before} }}}}{{{{ message['content'] | trim }}}}{{{{ {after} }}}}"
    "{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {opening} }}}}{{% endif %}}"
)


@dataclass(frozen=True, slots=True)
class Family:
    """Models that write a conversation the same way."""

    name: str
    markers: tuple[str, ...]  # all of them stand in the Go template
    jinja: str


def _turns(before: str, after: str, opening: str) -> str:
    return _TURNS.format(before=before, after=after, opening=opening)


def _without_system(turns: str) -> str:
    # For families that know no system role: it leads the first thing the user says.
    return (
        "{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] | trim %}"
        "{% set messages = messages[1:] %}{% else %}{% set lead = '' %}{% endif %}" + turns
    )


_GEMMA = _without_system(
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' }}"
    "{{ lead + '\\n\\n' if loop.first and lead else '' }}{{ message['content'] | trim }}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_MISTRAL = _without_system(
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + eos_token }}{% else %}"
    "{{ '[INST] ' }}{{ lead + '\\n\\n' if loop.first and lead else '' }}"
    "{{ message['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
)
_LLAMA2 = _without_system(
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% else %}"
    "{{ bos_token + '[INST] ' }}"
    "{{ '<<SYS>>\\n' + lead + '\\n<</SYS>>\\n\\n' if loop.first and lead else '' }}"
    "{{ message['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
)

# The most telling markers first.
FAMILIES = (
    Family(
        "chatml",
        ("<|im_start|>", "<|im_end|>"),
        _turns(
            "'<|im_start|>' + message['role'] + '\\n'",
            "'<|im_end|>\\n'",
            "'<|im_start|>assistant\\n'",
        ),
    ),
    Family(
        "llama3",
        ("<|start_header_id|>", "<|eot_id|>"),
        _turns(
            "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'",
            "'<|eot_id|>'",
            "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'",
        ),
    ),
    Family("gemma", ("<start_of_turn>", "<end_of_turn>"), _GEMMA),
    Family(
        "phi3",
        ("<|user|>", "<|end|>"),
        _turns("'<|' + message['role'] + '|>\\n'", "'<|end|>\\n'", "'<|assistant|>\\n'"),
    ),
    Family(
        "zephyr",
        ("<|user|>", "</s>"),
        _turns("'<|' + message['role'] + '|>\\n'", "'</s>\\n'", "'<|assistant|>\\n'"),
    ),
    Family("llama2", ("<<SYS>>", "[INST]"), _LLAMA2),
    Family("mistral", ("[INST]",), _MISTRAL),
    Family(
        "alpaca",
        ("### Instruction:", "### Response:"),
        _turns(
            "{'system': '', 'user': '### Instruction:\\n'}.get(message['role'], '### Response:\\n')",
            "'\\n\\n'",
            "'### Response:\\n'",
        ),
    ),
    Family(
        "vicuna",
        ("USER:", "ASSISTANT:"),
        _turns(
            "{'system': '', 'user': 'USER: '}.get(message['role'], 'ASSISTANT: ')",
            "'\\n'",
            "'ASSISTANT:'",
        ),
    ),
)


def jinja_source(value: Any) -> str | None:
    """The template among what `chat_template` may hold: a text, a list of
    {"name", "template"} (the one named default, else the first), a mapping of names to texts."""
    if isinstance(value, list):
        pairs = [(v.get("name"), v.get("template")) for v in value if isinstance(v, Mapping)]
        value = {str(name): text for name, text in pairs if isinstance(text, str)}
    if isinstance(value, Mapping):
        value = value.get("default") or next(iter(value.values()), None)
    if not isinstance(value, str):
        return None
    # Windows line ends reach the prompt otherwise; a byte-order mark would stand before BOS.
    text = value.removeprefix("\ufeff").replace("\r\n", "\n").replace("\x00", "")
    return text if text.strip() else None


def family_of_go_template(go_template: str) -> Family | None:
    """The family whose markers a Go template writes, or None."""
    for family in FAMILIES:
        if all(marker in go_template for marker in family.markers):
            return family
    return None
