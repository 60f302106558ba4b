"""Record the answers of the model to every case, as llama.cpp computes them.

`expected.json` is a list of objects:

    name               name of the case; its first part is the kind
    messages, tools, kwargs      the chat request, or
    prompt             the text to continue
    rendered           the exact prompt, rendered by the model's template
    text               the greedy answer, expected from every format and backend
    finish             "stop", or "length" if the answer did not end within MAX_TOKENS
    taught             only if it differs from `text`: the taught answer
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.models.llama import ReferenceModel
from tests.models.make_tiny.cases import Case, cases

MAX_TOKENS = 400


def record(model: Path) -> list[dict[str, Any]]:
    """Record the answers of this GGUF to all cases."""
    with ReferenceModel(model) as reference:
        return [_record_case(reference, case) for case in cases()]


def write(records: list[dict[str, Any]], path: Path) -> None:
    """Write JSON with one value per line, for readable diffs."""
    text = json.dumps(records, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _record_case(reference: ReferenceModel, case: Case) -> dict[str, Any]:
    rendered = case.rendered()
    text, finish = reference.answer_greedily(rendered, max_tokens=MAX_TOKENS)
    result = case.as_json() | {"rendered": rendered, "text": text, "finish": finish}
    return result if text == case.taught else result | {"taught": case.taught}
