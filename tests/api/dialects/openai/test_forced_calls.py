"""What the engine is asked to force, and that the answer is read as what was forced."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from protos import engine_pb2
from tests.api.chat_helpers import QUESTION, openai_client
from tests.api.conftest import Api, make_description, make_manifest, put_model
from tests.api.prompts.rendering import HERE
from tests.fakes.scripted_engine import delta, finished, started

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
STRICT: dict[str, Any] = {"response_format": {"type": "json_object"}}
CALL = '<tool_call>\n{"name": "f", "arguments": {"city": "Paris"}}\n</tool_call>'
OPTIONAL_THINKING = "( <think> part_0_call_thinking </think> ( /[ \\t\\r\\n]{1,4}/ )? )?"


def tool(name: str = "f", **changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, **changes}}


def choose(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.fixture(autouse=True)
def caller(api: Api) -> None:
    description = make_description(
        chat_template=(HERE / "qwen_like.jinja").read_text(),
        user_defined_tokens=("<tool_call>", "</tool_call>", "<think>", "</think>"),
    )
    put_model(api.data_dir / "models", make_manifest("caller:latest", description=description))


async def ask(api: Api, text: str = CALL, **changes: Any) -> tuple[engine_pb2.Submit, Any]:
    """What the engine got, and the answer to it."""
    api.engine.scripts["*"] = [started(), delta(text), finished()]
    async with openai_client(api) as client:
        body = {"model": "caller", "messages": QUESTION, **changes}
        answer = await client.chat.completions.create(**body)
    return api.engine.submits[-1], answer.choices[0]


async def test_required_forces_calls_of_the_tools_after_thinking(api: Api) -> None:
    submit, choice = await ask(api, tools=[tool(), tool("g")], tool_choice="required")

    start, call, *_ = submit.constraint.lark.splitlines()
    assert (start, call) == ('start: call ("\\n" call)*', "call: call_f | call_g")
    assert 'call_f: <tool_call> "\\n{\\"name\\": \\"f\\", ' in submit.constraint.lark
    assert OPTIONAL_THINKING in submit.constraint.before
    assert not submit.constraint.HasField("trigger")
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "changes",
    [
        {"tool_choice": "required", "parallel_tool_calls": False},
        {"tool_choice": choose("f")},
        {"tools": None, "functions": [tool()["function"]], "function_call": {"name": "f"}},
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [choose("f")]},
            },
            "parallel_tool_calls": False,
        },
    ],
    ids=["not parallel", "named", "old form", "allowed"],
)
async def test_one_call_is_forced(api: Api, changes: dict[str, Any]) -> None:
    tools = [tool(), tool("g")]
    submit, _ = await ask(api, **{"tools": tools, **changes})

    assert submit.constraint.lark.startswith("start: call\n")
    assert ("call_g" in submit.constraint.lark) == (changes.get("tool_choice") == "required")


async def test_strict_tools_are_enforced_where_the_model_begins_a_call(api: Api) -> None:
    submit, choice = await ask(api, tools=[tool(strict=True), tool("g")])

    assert submit.constraint.trigger == engine_pb2.Trigger(
        text="<tool_call>", thinking_start="<think>", thinking_end="</think>"
    )
    assert submit.constraint.before == ""
    assert submit.constraint.lark.count('"lenient": false') == 1
    assert submit.constraint.lark.count('"lenient": true') == 1
    assert choice.message.tool_calls


@pytest.mark.parametrize("changes", [{}, {"tool_choice": "none"}], ids=["not strict", "none"])
async def test_other_tools_leave_the_answer_free(api: Api, changes: dict[str, Any]) -> None:
    strict = "tool_choice" in changes
    submit, _ = await ask(api, tools=[tool(strict=strict)], **changes)

    assert not submit.HasField("constraint")


async def test_a_call_that_is_json_is_bound_only_at_the_start(api: Api) -> None:
    put_template(
        api,
        '<|start_header_id|> "parameters": {{ tools }} {% for m in messages %}'
        "{{ m.content }}{% endfor %}",
    )
    submit, _ = await ask(api, tools=[tool(strict=True)])

    assert submit.constraint.trigger == engine_pb2.Trigger(text='{"name": "', only_at_start=True)


async def test_a_form_that_cannot_be_bound_is_refused_by_its_name(api: Api) -> None:
    put_template(api, ">>>all {{ tools }} {% for m in messages %}{{ m.content }}{% endfor %}>>>")

    with pytest.raises(openai.BadRequestError, match=r"functionary-v3\.2"):
        await ask(api, tools=[tool(strict=True)])


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("name", ['a "b"', "x" * 129, "a b", "", "a\n"])
async def test_a_name_that_is_not_read_back_is_refused(api: Api, name: str, choice: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 128 letters") as caught:
        await ask(api, tools=[tool(name)], tool_choice=choice)
    assert caught.value.param == "tools"


async def test_functions_of_the_old_form_are_named_so(api: Api) -> None:
    deep: Any = {}
    for _ in range(70):
        deep = {"properties": deep}
    for each in (tool("a b"), tool(parameters={"type": "string"}), tool(parameters=deep)):
        function = each["function"]
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(api, functions=[function], function_call={"name": function["name"]})
        assert caught.value.param == "functions"
        assert "tools" not in caught.value.message


async def test_tools_that_are_not_shown_may_have_any_name(api: Api) -> None:
    await ask(api, tools=[tool("a b")], tool_choice="none")


@pytest.mark.parametrize("properties", [["a"], "x", 3])
async def test_parameters_that_are_no_schema_are_refused(api: Api, properties: object) -> None:
    broken = tool(parameters={"type": "object", "properties": properties})
    with pytest.raises(openai.BadRequestError, match="properties of 'f'"):
        await ask(api, tools=[broken], tool_choice="required")


@pytest.mark.parametrize("kind", ["string", ["array", "null"], 3])
async def test_parameters_that_are_no_object_are_refused(api: Api, kind: object) -> None:
    with pytest.raises(openai.BadRequestError, match="parameters of 'f' are not an object"):
        await ask(api, tools=[tool(parameters={"type": kind})], tool_choice="required")


@pytest.mark.parametrize("changes", [{"parameters": {}}, {"parameters": None}], ids=["{}", "none"])
async def test_a_function_without_parameters_gets_no_arguments(
    api: Api, changes: dict[str, Any]
) -> None:
    submit, _ = await ask(api, tools=[tool(**changes)], tool_choice="required")

    assert '"properties": {}, "additionalProperties": false' in submit.constraint.lark


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CALL, "tool_calls"),
        (CALL + '<tool_call>\n{"name": "f", "arguments": {"city": "Pa', "stop"),
        ('<tool_call>\n{"name": "f", "arguments": {"ci', "stop"),
    ],
    ids=["whole", "the second is cut", "the first is cut"],
)
async def test_an_answer_that_a_stop_string_ended_within_a_call_does_not_end_with_calls(
    api: Api, text: str, reason: str
) -> None:
    _, choice = await ask(api, text, tools=[tool()], stop=["ris"])

    assert choice.finish_reason == reason


async def test_a_structure_comes_after_thinking_and_holds_no_calls(api: Api) -> None:
    submit, choice = await ask(api, f"<think>Hm.</think>\n\n{CALL}", tools=[tool()], **STRICT)

    assert submit.constraint.json_schema == '{"type": "object"}'
    assert OPTIONAL_THINKING in submit.constraint.before
    assert choice.message.content == CALL
    assert choice.message.reasoning == "Hm."


@pytest.mark.parametrize(
    "options", [{"reasoning_format": "none"}, {"enable_thinking": False}], ids=str
)
async def test_a_structure_without_thinking_begins_at_once(
    api: Api, options: dict[str, Any]
) -> None:
    submit, _ = await ask(api, "{}", **STRICT, extra_body=options)

    assert submit.constraint.before == ""


def put_template(api: Api, template: str) -> None:
    description = make_description(chat_template=template)
    put_model(api.data_dir / "models", make_manifest("caller:latest", description=description))
