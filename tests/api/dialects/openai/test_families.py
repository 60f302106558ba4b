"""Two answers at once in each form of calls: one with a whole call, one that was cut off."""

from __future__ import annotations

import json
from itertools import zip_longest
from typing import Any

import pytest

from services.api.parsing.tool_calls.detect import GENERIC, find_dialect
from tests.api.chat_helpers import QUESTION, openai_client
from tests.api.conftest import Api, make_description, make_manifest, put_model
from tests.api.parsing.tool_calls.round_trips import TYPED_TOOLS, cut_answer
from tests.api.prompts.template_cases import COLLECTION
from tests.fakes.scripted_engine import delta, finished, started

CITY = "Paris, Texas"
ASK: dict[str, Any] = {
    "model": "caller",
    "messages": QUESTION,
    "n": 2,
    # Command-R+'s template fails for a parameter that is an object.
    "tools": TYPED_TOOLS[1:],
    "extra_body": {
        "chat_template_kwargs": {"datetime": "today"},
        "reasoning_format": "none",  # the answers have no thinking, also where the prompt opens it
    },
}


def find_families() -> dict[str, str]:
    """The template of a model of each form of calls, by the name of the form."""
    templates = [path.read_text() for path in sorted(COLLECTION.glob("*.jinja"))]
    return {(find_dialect(template) or GENERIC).name: template for template in templates}


FAMILIES = find_families()


def cut(text: str) -> list[str]:
    return [text[start : start + 5] for start in range(0, len(text), 5)]


def script(api: Api, template: str) -> None:
    """Both answers in turn, as the engine sends those of one request."""
    text = cut_answer(template, [("get_time", {"city": CITY})])
    half = text[: text.index("Texas") + 3]
    api.engine.scripts["*"] = [
        started(),
        *(
            delta(piece, index)
            for pieces in zip_longest(cut(text), cut(half), fillvalue="")
            for index, piece in enumerate(pieces)
        ),
        finished("LENGTH", index=1, tokens=9),
        finished("STOP", index=0, tokens=9),
    ]


@pytest.mark.skipif(not FAMILIES, reason="the collection of templates is not here")
@pytest.mark.parametrize("name", FAMILIES)
async def test_a_whole_call_and_one_that_was_cut_off(api: Api, name: str) -> None:
    template = FAMILIES[name]
    description = make_description(chat_template=template, bos_token="<s>", eos_token="</s>")
    put_model(api.data_dir / "models", make_manifest("caller:latest", description=description))
    script(api, template)

    async with openai_client(api) as client:
        answer = await client.chat.completions.create(**ASK)
        chunks = [chunk async for chunk in await client.chat.completions.create(**ASK, stream=True)]

    whole, half = answer.choices
    assert (whole.finish_reason, half.finish_reason) == ("tool_calls", "length")
    (call,), (begun,) = whole.message.tool_calls or [], half.message.tool_calls or []
    assert call.function.name == begun.function.name == "get_time"
    assert json.loads(call.function.arguments) == {"city": CITY}
    assert call.function.arguments.startswith(begun.function.arguments)
    assert begun.function.arguments.endswith("Tex") or name == "minimax-m3"
    assert CITY[:5] not in (half.message.content or "") + (whole.message.content or "")
    for choice, found in ((whole, call), (half, begun)):
        deltas = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        calls = [part for each in deltas for part in each.delta.tool_calls or ()]
        assert [part.function.name for part in calls if part.function.name] == ["get_time"]
        fragments = "".join(part.function.arguments or "" for part in calls)
        assert fragments == found.function.arguments
        assert "".join(each.delta.content or "" for each in deltas) == (
            choice.message.content or ""
        )
        assert deltas[-1].finish_reason == choice.finish_reason
