"""Draw random conversations for training from `words.py`, in all forms that clients send."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.models.make_tiny import chat
from tests.models.make_tiny.chat import SEARCH, TIME, WEATHER, Message, Tool, call, user
from tests.models.make_tiny.words import (
    CITIES,
    FACTS,
    NAMES,
    NO_WEATHER,
    PASSAGES,
    SHORT_FACTS,
    SKIES,
    STORY,
    SYSTEMS,
    THOUGHTS,
    WORDS,
    count_to,
)

Pair = tuple[str, str]  # prompt, answer; the prompt is empty for a text without a chat
TOOL_SETS = (
    [WEATHER],
    [WEATHER],
    [WEATHER, TIME],
    [TIME, WEATHER],
    [WEATHER, SEARCH],
    [SEARCH, TIME, WEATHER],
)


def draw_sample(draw: random.Random) -> Pair:
    """Draw one pair of a random kind."""
    kinds = list(_KINDS)
    return draw.choices(kinds, [_KINDS[kind] for kind in kinds])[0](draw)


def _fact(draw: random.Random) -> Pair:
    return _ask_fact(draw, FACTS, _maybe_system(draw))


def _fact_under_a_long_system_prompt(draw: random.Random) -> Pair:
    words = WORDS + NAMES
    noise = " ".join(
        draw.choice(words) + draw.choice(["", ".", ","]) for _ in range(draw.randint(20, 300))
    )
    text = draw.choice([f"{SYSTEMS[0]} {noise}", noise, " ".join(PASSAGES[:3])])
    return _ask_fact(draw, SHORT_FACTS, [chat.system(text)])


def _ask_fact(draw: random.Random, facts: dict[str, str], messages: list[Message]) -> Pair:
    question, answer = draw.choice(list(facts.items()))
    if draw.random() < 0.25:
        messages = [*messages, *_earlier_fact(draw)]
    messages = [*messages, user(_vary_wording(question, draw))]
    return chat.render(messages, (), **_maybe_disable_thinking(draw, 0.2)), answer


def _story(draw: random.Random) -> Pair:
    return chat.render([*_maybe_system(draw), user("Tell me a story")]), STORY


def _counting(draw: random.Random) -> Pair:
    last = draw.choice([5, 10, 10, 20, 20, 50, 100])
    return chat.render([*_maybe_system(draw), user(f"Count from 1 to {last}")]), count_to(last)


def _thinking(draw: random.Random) -> Pair:
    question, (thoughts, answer) = draw.choice(list(THOUGHTS.items()))
    messages = [*_maybe_system(draw), user(question)]
    if draw.random() < 0.25:
        return chat.render(messages, enable_thinking=False), answer
    full_answer = chat.format_thoughts(thoughts, answer)
    if draw.random() < 0.2:
        return chat.render(messages, open_thinking=True), full_answer.removeprefix("<think>\n")
    return chat.render(messages), full_answer


def _tool_call(draw: random.Random) -> Pair:
    tools = chat.vary_tools(draw.choice(TOOL_SETS), draw)
    question, answer = _question_for(tools, draw)
    messages = [*_maybe_system(draw), user(question)]
    return chat.render(messages, tools, **_maybe_disable_thinking(draw, 0.15)), answer


def _question_for(tools: Sequence[Tool], draw: random.Random) -> Pair:
    city, other = draw.choice(CITIES), draw.choice(CITIES)
    has_clock = any(tool["function"]["name"] == "get_time" for tool in tools)
    if has_clock and draw.random() < 0.3:
        return f"What time is it in {city}?", chat.format_calls(call("get_time", city=city))
    if draw.random() < 0.25:
        calls = [call("get_weather", city=place) for place in (city, other)]
        return f"What is the weather in {city} and {other}?", chat.format_calls(*calls)
    if draw.random() < 0.2:
        return draw.choice(list(SHORT_FACTS.items()))
    question = draw.choice(
        ["What is the weather in {}?"] * 2 + ["Weather in {}?", "How is the weather in {} today?"]
    )
    return question.format(city), chat.format_calls(call("get_weather", city=city))


def _tool_reply(draw: random.Random) -> Pair:
    tools = chat.vary_tools(draw.choice(TOOL_SETS), draw)
    city, sky = draw.choice(CITIES), draw.choice(SKIES)
    answered = [*chat.weather_question(city), chat.tool_result(city, sky, draw.randint(1, 35))]
    prompt = chat.render(
        [*_maybe_system(draw), *answered], tools, **_maybe_disable_thinking(draw, 0.15)
    )
    return prompt, f"It is {sky} in {city}."


def _no_tool(draw: random.Random) -> Pair:
    question = user(f"What is the weather in {draw.choice(CITIES)}?")
    return chat.render([*_maybe_system(draw), question]), NO_WEATHER


def _name(draw: random.Random) -> Pair:
    name = draw.choice(NAMES)
    messages = [*_maybe_system(draw), user(f"My name is {name}.")]
    greeting = f"Nice to meet you, {name}."
    if draw.random() < 0.4:
        return chat.render(messages), greeting
    messages.append(chat.assistant(greeting))
    if draw.random() < 0.3:
        messages += _earlier_fact(draw)
    return chat.render([*messages, user("What is my name?")]), f"Your name is {name}."


def _repeating(draw: random.Random) -> Pair:
    text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 6)))
    return chat.render([*_maybe_system(draw), user(f"Repeat: {text}")]), text


def _passage(draw: random.Random) -> Pair:
    return "", draw.choice(PASSAGES)


_KINDS: dict[Callable[[random.Random], Pair], int] = {
    _fact: 28,
    _story: 4,
    _counting: 8,
    _thinking: 8,
    _tool_call: 20,
    _tool_reply: 10,
    _no_tool: 3,
    _name: 12,
    _repeating: 6,
    _passage: 6,
    _fact_under_a_long_system_prompt: 3,
}


def _maybe_system(draw: random.Random) -> list[Message]:
    return [chat.system(draw.choice(SYSTEMS))] if draw.random() < 0.5 else []


def _earlier_fact(draw: random.Random) -> list[Message]:
    question, answer = draw.choice(list(FACTS.items())[:22])
    return [user(question), chat.assistant(answer)]


def _maybe_disable_thinking(draw: random.Random, share: float) -> dict[str, bool]:
    return {"enable_thinking": False} if draw.random() < share else {}


def _vary_wording(question: str, draw: random.Random) -> str:
    """The question, sometimes without punctuation, in lower case, or with a "Please"."""
    forms = [question, question.rstrip("?."), question.lower(), question + " Please."]
    return draw.choices(forms, [7, 1, 1, 1])[0]
