"""Find out what a chat template supports, by rendering it with and without each feature.

Searching the source for words is misleading: a template may mention tools only to refuse them.
Comparing two renders is not. One probe costs about a dozen renders of short conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.shared.errors import InvalidModelFile, InvalidRequest
from services.shared.templates.template import ChatTemplate, Message

# Texts that no template contains.
_SYSTEM = "zq-system-zq"
_USER = "zq-user-zq"
_ANSWER = "zq-answer-zq"
_REASON = "zq-reason-zq"
_TOOL = "zq_tool_zq"
_VALUE = "zq-value-zq"
_RESULT = "zq-result-zq"
_PROBE_SECONDS = 1.0

_THINK_SWITCHES = ("enable_thinking", "thinking")
_THINK_OPENINGS = ("<think>", "<thinking>", "[THINK]", "<seed:think>", "<|START_THINKING|>")

_ARGUMENTS_AS_TEXT = f'{{"place": "{_VALUE}"}}'
# Nine letters and digits, as Mistral's templates require.
_CALL_ID = "abcdefgh1"
_USER_MESSAGE: Message = {"role": "user", "content": _USER}
_SYSTEM_MESSAGE: Message = {"role": "system", "content": _SYSTEM}
_RESULT_MESSAGE: Message = {
    "role": "tool",
    "name": _TOOL,
    "tool_call_id": _CALL_ID,
    "content": _RESULT,
}
_TOOL_DEFINITION = {
    "type": "function",
    "function": {
        "name": _TOOL,
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "Where."}},
            "required": ["place"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What one template supports."""

    failure: str | None  # why the template cannot render even a plain question, or None
    system: bool = False  # a system message appears in the prompt
    tools: bool = False  # tool definitions appear in the prompt
    tool_calls: bool = False  # an earlier tool call of the assistant appears in the prompt
    tool_results: bool = False  # the result of a tool appears in the prompt
    arguments_as_object: bool = False  # a call's arguments must be an object, not JSON text
    content_parts: bool = False  # content may be a list of typed parts
    parts_only: bool = False  # content must be such a list
    thinking: bool = False  # the template supports reasoning
    thinking_switch: str | None = None  # the variable that turns reasoning on and off
    opens_thinking: bool = False  # the prompt ends inside the reasoning part


def probe(template: ChatTemplate) -> TemplateTraits:
    """The traits of a template. A template that fails has a `failure`; nothing is raised."""
    try:
        plain = template.render([_USER_MESSAGE], max_seconds=_PROBE_SECONDS)
        failure = None if _USER in plain else "it leaves out the user's message"
    except (InvalidModelFile, InvalidRequest) as error:
        plain, failure = "", error.message
    prober = _Prober(template, as_parts=failure is not None)
    if failure is None:
        return prober.traits(plain)
    in_parts = prober.render([_USER_MESSAGE]) or ""
    return prober.traits(in_parts) if _USER in in_parts else TemplateTraits(failure=failure)


@dataclass(frozen=True, slots=True)
class _Prober:
    """Renders one template. `as_parts`: content must be a list of typed parts."""

    template: ChatTemplate
    as_parts: bool

    def traits(self, plain: str) -> TemplateTraits:
        switch = self._thinking_switch()
        opens = plain.rstrip().endswith(_THINK_OPENINGS)
        as_object = self._shows(_with_tool_call({"place": _VALUE}), _VALUE, tools=True)
        arguments = {"place": _VALUE} if as_object else _ARGUMENTS_AS_TEXT
        return TemplateTraits(
            failure=None,
            system=self._shows([_SYSTEM_MESSAGE, _USER_MESSAGE], _SYSTEM),
            tools=self._shows([_USER_MESSAGE], _TOOL, tools=True),
            tool_calls=as_object
            or self._shows(_with_tool_call(_ARGUMENTS_AS_TEXT), _VALUE, tools=True),
            tool_results=self._shows(
                [*_with_tool_call(arguments), _RESULT_MESSAGE], _RESULT, tools=True
            ),
            arguments_as_object=as_object,
            content_parts=self.as_parts or self._reads_parts(),
            parts_only=self.as_parts,
            thinking=switch is not None
            or opens
            or self._keeps_reasoning()
            or self._strips_reasoning(),
            thinking_switch=switch,
            opens_thinking=opens,
        )

    def render(
        self, messages: Sequence[Message], *, tools: bool = False, **variables: bool
    ) -> str | None:
        """The prompt, or None when the template fails or refuses the conversation."""
        given = [_in_parts(m) for m in messages] if self.as_parts else messages
        definitions = [_TOOL_DEFINITION] if tools else None
        try:
            return self.template.render(given, definitions, max_seconds=_PROBE_SECONDS, **variables)
        except (InvalidModelFile, InvalidRequest):
            return None

    def _shows(self, messages: Sequence[Message], text: str, *, tools: bool = False) -> bool:
        return text in (self.render(messages, tools=tools) or "")

    def _reads_parts(self) -> bool:
        text = self.render([_in_parts(_USER_MESSAGE)]) or ""
        return _USER in text and "'type'" not in text and '"type"' not in text

    def _thinking_switch(self) -> str | None:
        for name in _THINK_SWITCHES:
            on = self.render([_USER_MESSAGE], **{name: True})
            off = self.render([_USER_MESSAGE], **{name: False})
            if on is not None and off is not None and on != off:
                return name
        return None

    def _keeps_reasoning(self) -> bool:
        # In the middle of a tool call, where even templates that drop old reasoning keep it.
        user, call = _with_tool_call({"place": _VALUE})
        turn = {**call, "reasoning_content": _REASON, "thinking": _REASON}
        return self._shows([user, turn, _RESULT_MESSAGE], _REASON, tools=True)

    def _strips_reasoning(self) -> bool:
        # Templates such as DeepSeek R1's remove the reasoning from earlier answers.
        turn = {"role": "assistant", "content": f"<think>{_REASON}</think>{_ANSWER}"}
        text = self.render([_USER_MESSAGE, turn, _USER_MESSAGE]) or ""
        return _ANSWER in text and _REASON not in text


def _with_tool_call(arguments: object) -> list[Message]:
    call = {
        "id": _CALL_ID,
        "type": "function",
        "function": {"name": _TOOL, "arguments": arguments},
    }
    return [_USER_MESSAGE, {"role": "assistant", "content": "", "tool_calls": [call]}]


def _in_parts(message: Message) -> Message:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
