"""What only some dialects have: other orders, texts that are left out, ids, bare calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from services.api.parsing.parts import CallStarted
from services.api.parsing.tool_calls.base import ToolDialect
from services.api.parsing.tool_calls.detect import DIALECTS
from tests.api.parsing.reading import Answer, Call, calls_of, join, read
from tests.api.parsing.tool_calls.forms import BAR, TOOLS, write_answer

BY_NAME: dict[str, ToolDialect] = {dialect.name: dialect for dialect in DIALECTS}
PARIS = [("get_weather", {"city": "Paris"})]
COUNT = [("get_weather", {"city": "X", "limit": 3})]
OPENED = f"<{BAR}tool▁calls▁begin{BAR}><{BAR}tool▁call▁begin{BAR}>"
DSML = f"{BAR}DSML{BAR}"

# By dialect and case: the text, its calls and its content.
CASES: list[tuple[str, str, str, list[Any], str]] = [
    ("hermes", "no line ends", '<tool_call>{"name":"get_time","arguments":{}}</tool_call>', [("get_time", {})], ""),
    ("hermes", "arguments first", '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>', PARIS, ""),
    ("hermes", "arguments as a text", '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>', PARIS, ""),
    ("hermes", "no arguments", '<tool_call>{"name": "get_time"}</tool_call>', [("get_time", {})], ""),
    ("hermes", "null as arguments", '<tool_call>{"name": "get_time", "arguments": null}</tool_call>', [("get_time", {})], ""),
    ("hermes", "parameters", '<tool_call>{"name": "get_weather", "parameters": {"city": "Paris"}}</tool_call>', PARIS, ""),
    ("hermes", "more members", '<tool_call>{"type": "function", "x": [{}], "name": "get_time", "arguments": {}, "y": 1}</tool_call>', [("get_time", {})], ""),
    ("hermes", "no end", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}', PARIS, ""),
    ("hermes", "a list", '<tool_call>[{"name": "get_time", "arguments": {}}, {"name": "get_time", "arguments": {}}]</tool_call>', [("get_time", {})] * 2, ""),
    ("hermes", "a line end in a string", '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb"}}</tool_call>', [("get_weather", {"city": "a\nb"})], ""),
    ("hermes", "the marker twice", '<tool_call><tool_call>{"name": "get_time", "arguments": {}}</tool_call>', [("get_time", {})], "<tool_call>"),
    ("hermes", "a comma and a text", '<tool_call>{"name": "get_time", "arguments": {}}, and so on', [("get_time", {})], ", and so on"),
    ("hermes", "no name", '<tool_call>{"arguments": {}}</tool_call>', [], '<tool_call>{"arguments": {}}</tool_call>'),
    ("hermes", "a number as name", '<tool_call>{"name": 5}', [], '<tool_call>{"name": 5}'),
    ("hermes", "Python's quotes", "<tool_call>{'name': 'get_time'}</tool_call>", [], "<tool_call>{'name': 'get_time'}</tool_call>"),
    ("llama3", "after the tag", '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}', PARIS, ""),
    ("llama3", "on a line of its own", 'Sure:\n{"name": "get_weather", "parameters": {"city": "Paris"}}', PARIS, "Sure:"),
    ("llama3", "arguments", '{"name": "get_weather", "arguments": {"city": "Paris"}}', PARIS, ""),
    ("llama3", "function as the key", '{"type": "function", "function": "get_weather", "parameters": {"city": "Paris"}}', PARIS, ""),
    ("llama3", "inside a line", 'Like {"name": "get_time", "parameters": {}}.', [], 'Like {"name": "get_time", "parameters": {}}.'),
    ("llama3", "an answer in JSON", '{"name": "Bob", "age": 3}', [], '{"name": "Bob", "age": 3}'),
    ("llama3", "JSON of other keys", '{"city": "Paris", "name": "get_time"}', [], '{"city": "Paris", "name": "get_time"}'),
    ("mistral-list", "one object", '[TOOL_CALLS]{"name": "get_weather", "arguments": {"city": "Paris"}}', PARIS, ""),
    ("mistral-list", "ids", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abcdefgh1"}]', PARIS, ""),
    ("mistral", "ids", '[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{"city": "Paris"}', PARIS, ""),
    ("mistral", "spaces", '[TOOL_CALLS] get_weather [ARGS] {"city": "Paris"}', PARIS, ""),
    ("mistral", "a name too many", '[TOOL_CALLS]foo [TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', PARIS, "[TOOL_CALLS]foo"),
    ("apertus", "two members", '<|tools_prefix|>[{"get_time": {}, "get_weather": {}}]', [], "{}}]"),
    ("deepseek-r1", "no fence", f'{OPENED}function<{BAR}tool▁sep{BAR}>get_weather\n{{"city": "Paris"}}<{BAR}tool▁call▁end{BAR}>', PARIS, ""),
    ("deepseek-v3.1", "no section", f'<{BAR}tool▁call▁begin{BAR}>get_weather<{BAR}tool▁sep{BAR}>{{"city": "Paris"}}', PARIS, ""),
    ("deepseek-v3.2", "a number as a string", f'<{DSML}invoke name="get_weather"><{DSML}parameter name="city" string="true">12</{DSML}parameter></{DSML}invoke>', [("get_weather", {"city": "12"})], ""),
    ("kimi-k2", "no index", '<|tool_call_begin|>get_weather<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|>', PARIS, ""),
    ("kimi-k2", "spaces", '<|tool_calls_section_begin|>\n<|tool_call_begin|> functions.get_weather:0 <|tool_call_argument_begin|> {"city": "Paris"} <|tool_call_end|>\n<|tool_calls_section_end|>', PARIS, ""),
    ("kimi-k3", "an answer around it", "<|open|>response<|sep|>Hi<|close|>response<|sep|>", [], "Hi"),
    ("qwen3-coder", "no outer tag", "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>", PARIS, ""),
    ("qwen3-coder", "on one line", "<tool_call><function=get_weather><parameter=city>Paris</parameter><parameter=limit>3</parameter></function></tool_call>", [("get_weather", {"city": "Paris", "limit": 3})], ""),
    ("qwen3-coder", "Python's values", "<tool_call><function=get_weather><parameter=hot>True</parameter><parameter=near>{'name': None}</parameter></function></tool_call>", [("get_weather", {"hot": True, "near": {"name": None}})], ""),
    ("qwen3-coder", "inner line ends", "<tool_call><function=get_weather><parameter=city>\n\n a\n\n</parameter></function></tool_call>", [("get_weather", {"city": "\n a\n"})], ""),
    ("qwen3-coder", "the end of a value in a value", "<tool_call><function=get_weather><parameter=city>\na </parameter> b\n</parameter>\n</function></tool_call>", [("get_weather", {"city": "a </parameter> b"})], ""),
    ("glm4", "on one line", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>X</arg_value><arg_key>limit</arg_key><arg_value>3</arg_value></tool_call>", COUNT, ""),
    ("glm4", "no arguments", "<tool_call>get_time</tool_call>", [("get_time", {})], ""),
    ("glm4", "a key that is not declared", "<tool_call>get_time\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call>", [("get_time", {"n": 3})], ""),
    ("lfm2", "Python's quotes", "<|tool_call_start|>[get_weather(city='it\\'s', hot=True, ids=[1, 2,],)]<|tool_call_end|>", [("get_weather", {"city": "it's", "hot": True, "ids": [1, 2]})], ""),
    ("lfm2", "quotes that are not escaped", "<|tool_call_start|>[get_weather(city='it's me')]<|tool_call_end|>", [("get_weather", {"city": "it's me"})], ""),
    ("lfm2", "a surrogate pair", r"<|tool_call_start|>[get_weather(city='\ud83d\ude00')]<|tool_call_end|>", [("get_weather", {"city": "😀"})], ""),
    ("hermes", "half of a surrogate pair", r"""<tool_call>{"id": "\ud800", "name": "get_weather", "arguments": "{\"city\": \"\ud800\"}"}</tool_call>""", [("get_weather", {"city": "\ufffd"})], ""),
    ("lfm2", "no list", "<|tool_call_start|>get_time()<|tool_call_end|>", [("get_time", {})], ""),
    ("gemma4", "quoted keys", '<|tool_call>call:get_weather{<|"|>city<|"|>:<|"|>Paris<|"|>}<tool_call|>', PARIS, ""),
    ("minicpm5", "no CDATA", '<function name="get_weather"><param name="city">Paris</param></function>', PARIS, ""),
    ("command-r", "the way to answer", 'Action: ```json\n[{"tool_name": "directly-answer", "parameters": {}}]\n```', [], 'Action: ```json\n[{"tool_name": "directly-answer", "parameters": {}}]\n```'),
    ("command-r7b", "an answer", "<|START_RESPONSE|>Hello<|END_RESPONSE|>", [], "Hello"),
    ("functionary-v3.2", "an answer", "all\nHello.", [], "Hello."),
    ("functionary-v3.2", "an answer and a call", 'all\nHello.>>>get_weather\n{"city": "Paris"}', PARIS, "Hello."),
    ("functionary-v3.2", "no recipient", "Hello there.\nYou.", [], "Hello there.\nYou."),
    ("solar", "an answer", "<|content|>Hello<|end|>", [], "Hello"),
    ("harmony", "recipient in the role", ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris"}', PARIS, ""),
    ("harmony", "a preamble", '<|channel|>commentary<|message|>Let me.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather<|message|>{"city": "Paris"}<|call|>', PARIS, "Let me."),
    ("harmony", "call in the analysis channel", '<|channel|>analysis to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>', PARIS, ""),
    ("harmony", "no header", "Hello <b> there", [], "Hello <b> there"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "calls", "content"),
    [pytest.param(n, text, calls, content, id=f"{n}: {case}") for n, case, text, calls, content in CASES],
)  # fmt: skip
def test_a_form_is_read(name: str, text: str, calls: list[Any], content: str) -> None:
    whole = join(read(BY_NAME[name].open(TOOLS), [text]))

    assert whole == join(read(BY_NAME[name].open(TOOLS), text))
    assert (calls_of(whole), whole.content) == (calls, content)


WITH_PYTHON: dict[str, Any] = {**TOOLS, "python": {"properties": {"source": {"type": "string"}}}}


@pytest.mark.parametrize(
    ("text", "tools", "calls"),
    [
        ('get_weather.call(city="Paris")', TOOLS, PARIS),
        ('get_weather.call(city="X", limit=3)', WITH_PYTHON, COUNT),
        ('print("a\\n")\nx.call(1)', WITH_PYTHON, [("python", {"source": 'print("a\\n")\nx.call(1)'})]),
        ("1 + 1<|eom_id|>", {"ipython": {}}, [("ipython", {"code": "1 + 1"})]),
        ("print(1)", TOOLS, []),
    ],
)  # fmt: skip
def test_llama_calls_its_built_in_tools_in_python(
    text: str, tools: dict[str, Any], calls: list[Any]
) -> None:
    whole = join(read(BY_NAME["llama3"].open(tools), [f"<|python_tag|>{text}"]))

    assert whole == join(read(BY_NAME["llama3"].open(tools), f"<|python_tag|>{text}"))
    assert calls_of(whole) == calls
    assert whole.content == ("" if calls else f"<|python_tag|>{text}")


def test_thinking_that_quotes_a_call_is_thinking() -> None:
    quoted = '<|channel|>commentary to=functions.get_time<|message|>{"a'.replace("<|message|>", " ")
    text = f"<|channel|>analysis<|message|>I write {quoted}<|end|><|start|>assistant"
    text += "<|channel|>final<|message|>Done<|return|>"

    answer = join(read(BY_NAME["harmony"].open(TOOLS), text))

    assert answer == Answer(content="Done", reasoning=f"I write {quoted}")


def test_arguments_that_break_have_no_end_and_the_rest_is_content() -> None:
    text = '<tool_call>{"name": "get_time", "arguments": {"city": nope}}</tool_call>'

    answer = join(read(BY_NAME["hermes"].open(TOOLS), [text]))

    assert answer.calls == [Call("get_time", '{"city": ')]
    assert answer.content == "nope}}</tool_call>"


def test_the_arguments_are_the_models_own_text() -> None:
    arguments = '{ "city" :"\\u00e9\\/" ,\n "limit": 1.50 }'
    text = f'<tool_call>{{"name": "get_weather", "arguments": {arguments}}}</tool_call>'

    answer = join(read(BY_NAME["hermes"].open(TOOLS), text))

    assert answer.calls == [Call("get_weather", arguments, is_whole=True)]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("hermes", r"call_[A-Za-z0-9]{24}"),
        ("mistral", r"[A-Za-z0-9]{9}"),
        ("mistral-list", r"[A-Za-z0-9]{9}"),
        ("kimi-k2", r"functions\.get_weather:0"),
        ("solar", r"a1b2c3d4e5"),
        ("command-r7b", r"call_[A-Za-z0-9]{24}"),
    ],
)
def test_an_id_has_the_form_that_the_template_wants(name: str, form: str) -> None:
    parts = read(BY_NAME[name].open(TOOLS), [write_answer(name, [[("get_weather", {})]])])

    ids = [part.id for part in parts if isinstance(part, CallStarted)]

    assert [bool(re.fullmatch(form, id_)) for id_ in ids] == [True]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", r'<tool_call>{"id": "\udc00", "name": "get_time", "arguments": {}}</tool_call>'),
        ("lfm2", r"<|tool_call_start|>[get_time(a='\udc00')]<|tool_call_end|>"),
    ],
)
def test_half_a_surrogate_pair_can_be_sent(name: str, text: str) -> None:
    parts = read(BY_NAME[name].open(TOOLS), [text])

    assert msgspec.json.encode(parts)


def test_made_up_ids_differ() -> None:
    text = write_answer("hermes", [[("get_time", {}), ("get_time", {})]])

    parts = read(BY_NAME["hermes"].open(TOOLS), [text])

    assert len({part.id for part in parts if isinstance(part, CallStarted)}) == 2


def test_an_id_that_the_model_repeats_is_replaced() -> None:
    """Clients find the call of a result by its id."""
    text = '<tool_call>{"id": "call_0", "name": "get_time", "arguments": {}}</tool_call>'

    parts = read(BY_NAME["hermes"].open(TOOLS), [text + text])

    first, second = (part.id for part in parts if isinstance(part, CallStarted))
    assert first == "call_0"
    assert re.fullmatch(r"call_[A-Za-z0-9]{24}", second)


def test_the_models_own_id_is_kept() -> None:
    text = '[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{"city": "Paris"}'

    first = BY_NAME["mistral"].open(TOOLS).feed(text)[0]

    assert first == CallStarted(index=0, id="abcdefgh1", name="get_weather")


@pytest.mark.parametrize("name", BY_NAME)
def test_nothing_is_a_call_when_no_functions_are_declared(name: str) -> None:
    text = write_answer(name, [[("get_weather", {"city": "Paris"})]])

    answer = join(read(BY_NAME[name].open({}), [text]))

    assert answer.calls == []
    assert "get_weather" in answer.content


# By dialect: an answer without calls, as the template writes it, and its text.
SHAPED = {
    "kimi-k3": ("<|open|>response<|sep|>Hi <b>.<|close|>response<|sep|><|close|>message<|sep|>"),
    "command-r7b": "<|START_RESPONSE|>Hi <b>.<|END_RESPONSE|>",
    "solar": "<|content|>Hi <b>.<|end|>",
    "muse": " to=user<|message|>Hi <b>.<|eot|>",
    "functionary-v3.2": "all\nHi <b>.",
    "harmony": "<|channel|>final<|message|>Hi <b>.<|return|>",
}


@pytest.mark.parametrize(("name", "text"), SHAPED.items())
@pytest.mark.parametrize("tools", [{}, TOOLS], ids=["no tools", "tools"])
def test_texts_that_only_structure_an_answer_are_dropped(
    name: str, text: str, tools: Mapping[str, Any]
) -> None:
    """Also where the request has no tools: a parser is made for such a dialect."""
    whole = join(read(BY_NAME[name].open(tools), [text]))

    assert whole == join(read(BY_NAME[name].open(tools), text)) == Answer(content="Hi <b>.")
    assert BY_NAME[name].shapes_text


def test_the_recipient_of_a_call_is_no_content() -> None:
    call = write_answer("muse", [[("get_weather", {"city": "Paris"})]])
    text = f" to=user<|message|>Look:<|eom|><|start|>assistant to=get_weather<|message|>{call}"

    answer = join(read(BY_NAME["muse"].open(TOOLS), text))

    assert answer.content == "Look:"
    assert calls_of(answer) == [("get_weather", {"city": "Paris"})]
