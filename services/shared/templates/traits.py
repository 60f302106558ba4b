"""What a chat template can express, found by rendering it with and without each thing.

Reading the source for words misleads (a template may mention tools only to refuse them); comparing
two renders does not. One probe costs a dozen renders of short conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.shared.errors import InvalidModelFile, InvalidRequest
from services.shared.templates.template import ChatTemplate, Message

# Texts that no template contains by itself.
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
# Nine letters and digits: Mistral's templates insist.
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
    """What one template does. `failure`: why not even a plain question renders, or None."""

    failure: str | None
    system: bool = False  # a system message reaches the prompt
    tools: bool = False  # tool definitions do
    tool_calls: bool = False  # an earlier call of the assistant does
    tool_results: bool = False  # what a tool answered does
    arguments_as_object: bool = False  # wants a call's arguments parsed, not as JSON text
    content_parts: bool = False  # takes content as a list of typed parts
    parts_only: bool = False  # shows content only as such a list
    thinking: bool = False  # knows a reasoning part
    thinking_switch: str | None = None  # the variable that turns it on and off
    opens_thinking: bool = False  # the prompt itself ends inside the reasoning part


def probe(template: ChatTemplate) -> TemplateTraits:
    """The traits of a template. Raises nothing a template could cause."""
    try:
        plain = template.render([_USER_MESSAGE], max_seconds=_PROBE_SECONDS)
        failure = None if _USER in plain else "it leaves out what the user says"
    except (InvalidModelFile, InvalidRequest) as error:
        plain, failure = "", error.message
    prober = _Prober(template, as_parts=failure is not None)
    if failure is None:
        return prober.traits(plain)
    in_parts = prober.render([_USER_MESSAGE]) or ""
    return prober.traits(in_parts) if _USER in in_parts else TemplateTraits(failure=failure)


@dataclass(frozen=True, slots=True)
class _Prober:
    """Renders one template. `as_parts`: it reads content as a list of typed parts only."""

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
        """The prompt, or None where the template fails or refuses."""
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
        # In the middle of using a tool, where templates that drop old reasoning still keep it.
        user, call = _with_tool_call({"place": _VALUE})
        turn = {**call, "reasoning_content": _REASON, "thinking": _REASON}
        return self._shows([user, turn, _RESULT_MESSAGE], _REASON, tools=True)

    def _strips_reasoning(self) -> bool:
        # DeepSeek R1 and its kind cut the reasoning out of earlier answers.
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
