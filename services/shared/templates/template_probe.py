"""Find out what a chat template supports, by rendering it with and without each feature.

Searching the source for words is misleading: a template may mention tools only to refuse them.
Comparing two renders is not. One probe costs about a dozen renders of short conversations. Like
`template.py`, it runs in the process of `renderer_main.py` only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.shared.errors import InvalidRequest
from services.shared.templates.template import RenderedTemplate, TemplateFailed
from services.shared.templates.traits import TemplateTraits

Message = Mapping[str, Any]

# Texts that no template contains.
_SYSTEM = "zq-system-zq"
_USER = "zq-user-zq"
_ANSWER = "zq-answer-zq"
_REASON = "zq-reason-zq"
_TOOL = "zq_tool_zq"
_OTHER_TOOL = "zq_other_zq"
_VALUE = "zq-value-zq"
_RESULT = "zq-result-zq"

_THINK_SWITCHES = ("enable_thinking", "thinking")
_THINK_OPENINGS = ("<think>", "<thinking>", "[THINK]", "<seed:think>", "<|START_THINKING|>")

_ARGUMENTS_AS_TEXT = f'{{"place": "{_VALUE}"}}'
# Nine letters and digits, as Mistral's templates require.
_CALL_ID = "abcdefgh1"
_OTHER_ID = "abcdefgh2"
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


def probe(template: RenderedTemplate) -> TemplateTraits:
    """The traits of a template without marks. One that fails has a `failure`; nothing is raised."""
    plain, failure = _render_question(template)
    prober = _Prober(template, as_parts=failure is not None)
    if failure is None:
        return prober.traits(plain)
    in_parts = prober.render([_USER_MESSAGE]) or ""
    return prober.traits(in_parts) if _USER in in_parts else TemplateTraits(failure=failure)


def find_composed(
    template: RenderedTemplate, traits: TemplateTraits, control_tokens: Iterable[str]
) -> tuple[str, ...]:
    """The control tokens that a template with marks puts together while it renders.

    Such as `'<|' + message.role + '|>'`: they have no mark in the prompt.
    """
    prober = _Prober(template, as_parts=traits.parts_only)
    arguments = {"place": _VALUE} if traits.arguments_as_object else _ARGUMENTS_AS_TEXT
    answer: Message = {"role": "assistant", "content": _ANSWER, "reasoning_content": _REASON}
    calls = [*_with_tool_call(arguments), _RESULT_MESSAGE]
    prompts = [prober.render([_USER_MESSAGE])]
    for start in ([], [_SYSTEM_MESSAGE]):
        prompts += [
            prober.render([*start, _USER_MESSAGE, answer, _USER_MESSAGE]),
            prober.render([*start, *calls, answer, _USER_MESSAGE], tools=True),
            prober.render([*start, *calls, answer], tools=True, add_generation_prompt=False),
        ]
    shown = "\0".join(prompt or "" for prompt in prompts)
    return tuple(token for token in control_tokens if token and token in shown)


def _render_question(template: RenderedTemplate) -> tuple[str, str | None]:
    """A plain question rendered, and why that failed."""
    try:
        plain = template.render(_build_variables([_USER_MESSAGE]))
    except InvalidRequest as error:
        return "", error.message
    except TemplateFailed as error:
        place = f" in line {error.line}" if error.line else ""
        return "", f"it fails{place}: {error.detail}"
    return plain, None if _USER in plain else "it leaves out the user's message"


@dataclass(frozen=True, slots=True)
class _Prober:
    """Renders one template. `as_parts`: content must be a list of typed parts."""

    template: RenderedTemplate
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
            several_calls=self._shows_two_calls(arguments),
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
        try:
            return self.template.render(_build_variables(given, tools=tools, **variables))
        except (InvalidRequest, TemplateFailed):
            return None

    def _shows(self, messages: Sequence[Message], text: str, *, tools: bool = False) -> bool:
        return text in (self.render(messages, tools=tools) or "")

    def _shows_two_calls(self, arguments: object) -> bool:
        user, turn = _with_tool_call(arguments)
        (call,) = turn["tool_calls"]
        other = {**call, "id": _OTHER_ID, "function": {**call["function"], "name": _OTHER_TOOL}}
        second = {**_RESULT_MESSAGE, "name": _OTHER_TOOL, "tool_call_id": _OTHER_ID}
        messages = [user, {**turn, "tool_calls": [call, other]}, _RESULT_MESSAGE, second]
        return self._shows(messages, _OTHER_TOOL, tools=True)

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


def _build_variables(
    messages: Sequence[Message], *, tools: bool = False, **variables: bool
) -> dict[str, Any]:
    """Variables of their own for each render, which may change them."""
    given = {"messages": messages, "tools": [_TOOL_DEFINITION] if tools else None}
    return copy.deepcopy({"add_generation_prompt": True, **given, **variables})


def _with_tool_call(arguments: object) -> list[Message]:
    call = {
        "id": _CALL_ID,
        "type": "function",
        "function": {"name": _TOOL, "arguments": arguments},
    }
    return [_USER_MESSAGE, {"role": "assistant", "content": "", "tool_calls": [call]}]


def _in_parts(message: Message) -> Message:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
