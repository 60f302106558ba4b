"""Ask the model every case through llama.cpp and write down what it says.

`expected.json` is a list of objects:

    name               of the case; its first word says the kind
    messages, tools, kwargs      the chat that was asked, or
    prompt             the text that was to be continued
    rendered           the exact prompt, after the model's own template
    text               what the model says greedily, every format and backend alike
    finish             "stop", or "length" where it did not end within MAX_TOKENS
    taught             only where `text` differs: what it should have learnt to say
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.models.llama import ReferenceModel
from tests.models.make_tiny.cases import Case, cases

MAX_TOKENS = 400


def record(model: Path) -> list[dict[str, Any]]:
    """The answers of this GGUF to all cases."""
    with ReferenceModel(model) as plain:
        return [_asked(plain, case) for case in cases()]


def write(records: list[dict[str, Any]], path: Path) -> None:
    """As JSON that reads well in a diff."""
    text = json.dumps(records, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _asked(plain: ReferenceModel, case: Case) -> dict[str, Any]:
    rendered = case.rendered()
    text, finish = plain.answer_greedily(rendered, max_tokens=MAX_TOKENS)
    said = case.as_json() | {"rendered": rendered, "text": text, "finish": finish}
    return said if text == case.taught else said | {"taught": case.taught}
