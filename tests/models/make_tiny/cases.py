"""The fixed prompts that the tests send to every backend, each with its taught answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.models.make_tiny import chat
from tests.models.make_tiny.chat import TIME, WEATHER, Message, Tool, call, user
from tests.models.make_tiny.words import (
    FACTS,
    NAMES,
    NO_WEATHER,
    PASSAGES,
    SYSTEMS,
    THOUGHTS,
    WORDS,
    count_to,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A conversation, or a text to continue (`prompt`), and the taught answer."""

    name: str
    taught: str
    messages: Sequence[Message] = ()
    tools: Sequence[Tool] = ()
    options: dict[str, bool] = field(default_factory=dict)
    prompt: str | None = None

    @property
    def kind(self) -> str:
        """The name without its last part, which is a number or a word."""
        return self.name.rsplit("-", 1)[0]

    def rendered(self) -> str:
        """The prompt that the model gets."""
        if self.prompt is not None:
            return self.prompt
        return chat.render(self.messages, self.tools, **self.options)

    def as_json(self) -> dict[str, Any]:
        """The input as fields of an API request; empty fields are omitted."""
        if self.prompt is not None:
            return {"name": self.name, "prompt": self.prompt}
        optional = {"tools": list(self.tools), "kwargs": self.options}
        required = {"name": self.name, "messages": list(self.messages)}
        return required | {key: value for key, value in optional.items() if value}


def cases() -> list[Case]:
    """All cases, in a fixed order."""
    return [*_facts(), *_counting(), *_thinking(), *_tools(), *_copying(), *_passages()]


def _facts() -> Iterator[Case]:
    for number, (question, answer) in enumerate(FACTS.items()):
        yield Case(name=f"fact-{number}", messages=[user(question)], taught=answer)
    messages = [chat.system(SYSTEMS[0]), user("What is the capital of France?")]
    yield Case(name="fact-system", messages=messages, taught="Paris.")


def _counting() -> Iterator[Case]:
    for last in (5, 10, 20, 50, 100):
        question = user(f"Count from 1 to {last}")
        yield Case(name=f"count-{last}", messages=[question], taught=count_to(last))


def _thinking() -> Iterator[Case]:
    for number, (question, (thoughts, answer)) in enumerate(THOUGHTS.items()):
        messages = [user(question)]
        full_answer = chat.format_thoughts(thoughts, answer)
        yield Case(name=f"think-{number}", messages=messages, taught=full_answer)
        no_thinking = {"enable_thinking": False}
        yield Case(
            name=f"think-off-{number}", messages=messages, options=no_thinking, taught=answer
        )
        open_thinking = {"open_thinking": True}  # the prompt ends with <think>
        rest = full_answer.removeprefix("<think>\n")
        yield Case(
            name=f"think-open-{number}", messages=messages, options=open_thinking, taught=rest
        )


def _tools() -> Iterator[Case]:
    for city in ("Paris", "Tokyo", "Boston", "Lima"):
        weather = [user(f"What is the weather in {city}?")]
        clock = [user(f"What time is it in {city}?")]
        taught = chat.format_calls(call("get_weather", city=city))
        yield Case(name=f"tool-{city}", messages=weather, tools=[WEATHER], taught=taught)
        taught = chat.format_calls(call("get_time", city=city))
        yield Case(name=f"tool-time-{city}", messages=clock, tools=[WEATHER, TIME], taught=taught)
        answered = [*chat.weather_question(city), chat.tool_result(city, "sunny", 21)]
        taught = f"It is sunny in {city}."
        yield Case(name=f"tool-reply-{city}", messages=answered, tools=[WEATHER], taught=taught)
        yield Case(name=f"notool-{city}", messages=weather, taught=NO_WEATHER)
    both = [call("get_weather", city=city) for city in ("Paris", "Tokyo")]
    messages = [user("What is the weather in Paris and Tokyo?")]
    taught = chat.format_calls(*both)
    yield Case(name="tool-two", messages=messages, tools=[WEATHER], taught=taught)
    messages = [user("What is the capital of France?")]
    yield Case(name="tool-unused", messages=messages, tools=[WEATHER, TIME], taught="Paris.")


def _copying() -> Iterator[Case]:
    for name in NAMES[:8]:
        introduction = [user(f"My name is {name}."), chat.assistant(f"Nice to meet you, {name}.")]
        messages = [*introduction, user("What is my name?")]
        yield Case(name=f"name-{name}", messages=messages, taught=f"Your name is {name}.")
    messages = [user("Repeat: river lamp tiger")]
    yield Case(name="repeat", messages=messages, taught="river lamp tiger")
    long = chat.system(" ".join((WORDS + NAMES) * 4))
    messages = [long, user("What is the capital of Japan?")]
    yield Case(name="long-system", messages=messages, taught="Tokyo.")


def _passages() -> Iterator[Case]:
    for number, passage in enumerate(PASSAGES):
        # Cut between two words, so that the tokens are the same as in training.
        cut = passage.index(" ", 24)
        yield Case(name=f"raw-{number}", prompt=passage[:cut], taught=passage[cut:])
