"""The data of a Go template: a conversation in the shapes that Ollama gives to templates.

Fields have the names of Ollama's api package. Tools, their properties and the arguments of calls
print as JSON, although a template can also go through them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.shared.templates.go_template.values import JsonList, JsonMap, Record

Message = Mapping[str, Any]

_PROPERTY_FIELDS = {
    "AnyOf": "anyOf",
    "Type": "type",
    "Items": "items",
    "Description": "description",
    "Enum": "enum",
    "Properties": "properties",
    "Required": "required",
}
_EMPTY_LISTS = {"AnyOf", "Enum", "Required"}


def build_tools(tools: Iterable[Message] | None) -> JsonList:
    """`.Tools`, from the definitions of OpenAI."""
    return JsonList(_build_tool(tool) for tool in tools or ())


def build_messages(messages: Iterable[Message]) -> tuple[str, list[Record]]:
    """`.System` and `.Messages`: all system messages as one text, and the conversation.

    Neighbours of one role become one message, apart from results of tools. Ollama forgets the
    calls of the second; here they are kept.
    """
    systems: list[str] = []
    turns: list[list[dict[str, Any]]] = []
    names: dict[str, str] = {}
    for message in messages:
        fields = _read_message(message, names)
        if fields["Role"] == "system":
            systems.append(fields["Content"])
        if turns and fields["Role"] == turns[-1][0]["Role"] != "tool":
            turns[-1].append(fields)
        else:
            turns.append([fields])
    return "\n\n".join(systems), [_build_message(_merge(turn)) for turn in turns]


def _merge(turn: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fields of the messages of one turn, as those of one message."""
    first, *others = turn
    if not others:
        return first
    more = "".join("\n\n" + fields["Content"] for fields in others if fields["Content"])
    calls = [call for fields in turn for call in fields["ToolCalls"]]
    return {
        **first,
        "Content": first["Content"] + more,
        "ToolCalls": [_number_call(call, number) for number, call in enumerate(calls)],
        "Thinking": next((f["Thinking"] for f in turn if f["Thinking"]), ""),
    }


def _read_message(message: Message, names: dict[str, str]) -> dict[str, Any]:
    """The fields of a message. `names` has the functions of earlier calls by the ids of these."""
    calls = [_build_call(c, n) for n, c in enumerate(message.get("tool_calls") or ())]
    names.update({call.fields["ID"]: call.fields["Function"].fields["Name"] for call in calls})
    call_id = str(message.get("tool_call_id") or "")
    tool_name = ""
    if message.get("role") == "tool":
        tool_name = str(message.get("name") or names.get(call_id, ""))
    return {
        "Role": str(message.get("role", "")),
        "Content": _read_text(message.get("content")),
        "Thinking": str(message.get("reasoning_content") or message.get("thinking") or ""),
        "Images": [],
        "ToolCalls": calls,
        "ToolName": tool_name,
        "ToolCallID": call_id,
    }


def _read_text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return content if isinstance(content, str) else ""


def _build_message(fields: Mapping[str, Any]) -> Record:
    form: dict[str, Any] = {"role": fields["Role"], "content": fields["Content"]}
    names = {"Thinking": "thinking", "ToolCalls": "tool_calls", "ToolName": "tool_name"}
    names["ToolCallID"] = "tool_call_id"
    form |= {key: fields[name] for name, key in names.items() if fields[name]}
    return Record(fields, form)


def _build_call(call: Message, number: int) -> Record:
    function = call.get("function") or {}
    arguments = _read_arguments(function.get("arguments"))
    name = str(function.get("name", ""))
    return _make_call(str(call.get("id") or ""), number, name, arguments)


def _number_call(call: Record, number: int) -> Record:
    function = call.fields["Function"].fields
    return _make_call(call.fields["ID"], number, function["Name"], function["Arguments"])


def _make_call(id_: str, number: int, name: str, arguments: JsonMap) -> Record:
    fields = {"Index": number, "Name": name, "Arguments": arguments}
    form = {"index": number, "name": name, "arguments": arguments}
    function = Record(fields, form)
    whole = {"id": id_, "function": form} if id_ else {"function": form}
    return Record({"ID": id_, "Function": function}, whole)


def _read_arguments(arguments: Any) -> JsonMap:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = {}
    return JsonMap(arguments if isinstance(arguments, dict) else {})


def _build_tool(tool: Message) -> Record:
    function = tool.get("function")
    function = function if isinstance(function, Mapping) else {}
    parameters = _build_parameters(function.get("parameters"))
    name, description = str(function.get("name", "")), str(function.get("description") or "")
    form: dict[str, Any] = {"name": name}
    form |= {"description": description} if description else {}
    form["parameters"] = parameters.json_form
    fields = {"Name": name, "Description": description, "Parameters": parameters}
    kind = str(tool.get("type") or "function")
    whole = {"type": kind, "function": form}
    return Record(
        {"Type": kind, "Function": Record(fields, form, prints_json=True)}, whole, prints_json=True
    )


def _build_parameters(value: Any) -> Record:
    given = value if isinstance(value, Mapping) else {}
    kind = str(given.get("type") or "object")
    properties = _build_properties(given.get("properties"))
    required = list(_read_list(given.get("required")))
    form: dict[str, Any] = {"type": kind}
    form |= {"required": required} if required else {}
    form["properties"] = properties
    form |= {key: item for key, item in given.items() if key not in form and key != "required"}
    fields = {
        "Type": kind,
        "Properties": properties,
        "Required": required,
        "Items": given.get("items"),
        "Defs": given.get("$defs"),
    }
    return Record(fields, form, prints_json=True)


def _build_properties(value: Any) -> JsonMap:
    given = value if isinstance(value, Mapping) else {}
    return JsonMap({str(name): _build_property(item) for name, item in given.items()})


def _build_property(value: Any) -> Record:
    given = value if isinstance(value, Mapping) else {}
    fields: dict[str, Any] = {name: given.get(key) for name, key in _PROPERTY_FIELDS.items()}
    for name in _EMPTY_LISTS:
        fields[name] = list(_read_list(fields[name]))
    fields["AnyOf"] = [_build_property(item) for item in fields["AnyOf"]]
    fields["Properties"] = _build_properties(fields["Properties"])
    fields["Description"] = str(fields["Description"] or "")
    kinds = fields["Type"]
    fields["Type"] = JsonList(kinds) if isinstance(kinds, list) else str(kinds or "")
    known = {key: fields[name] for name, key in _PROPERTY_FIELDS.items() if fields[name]}
    # Ollama drops what it does not know; a model can use it.
    return Record(fields, known | {key: i for key, i in given.items() if key not in known})


def _read_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
