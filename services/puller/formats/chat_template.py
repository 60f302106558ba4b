"""Extract the Jinja chat template of a model, and the tokens that a template writes.

Files of the hub hold one template, a list of named templates, or an empty string.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


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
