"""Where the messages of a conversation end in its prompt, by the templates themselves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from protos import engine_pb2
from services.api.prompts.render import Conversation, PromptRenderer
from services.shared.store.manifest import Manifest
from services.shared.templates.renderer import Template, TemplateRenderer
from tests.api.prompts.rendering import HERE, get_renderer, make_manifest, read_template
from tests.api.prompts.template_cases import COLLECTION
from tests.api.prompts.test_render import ANSWER, CALL, MORE, RESULT, TOOL, USER

SYSTEM = {"role": "system", "content": "System " * 40}
CHATML = ("<|im_start|>", "<|im_end|>")


def render(manifest: Manifest, **conversation: Any) -> engine_pb2.PromptText:
    return get_renderer().render(manifest, Conversation(**conversation), finds_cuts=True)


def split_at_cuts(prompt: engine_pb2.PromptText) -> list[str]:
    text = "".join(piece.text for piece in prompt.pieces)
    ends = [0, *prompt.cuts, len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("name", [path.stem for path in sorted(HERE.glob("*.jinja"))])
def test_chats_part_where_texts_of_the_user_begin(name: str) -> None:
    manifest = make_manifest(read_template(name))
    messages = [SYSTEM, USER, ANSWER, MORE]

    parts = split_at_cuts(render(manifest, messages=messages))

    assert [part.startswith(text) for part, text in zip(parts[1:], ["User", "More"], strict=True)]
    is_with_last = name == "mistral_like"  # it shows the system prompt with the last question
    assert ("System" in parts[0], "System" in parts[1]) == (not is_with_last, is_with_last)
    assert "AnswerWords" in parts[1]


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
def test_every_real_template_shows_where_texts_of_the_user_begin() -> None:
    without, with_last = [], []
    for path in sorted(COLLECTION.glob("*.jinja")):
        prompt = render(make_manifest(path.read_text()), messages=[SYSTEM, USER, ANSWER, MORE])
        parts = split_at_cuts(prompt)
        if [part[:4] for part in parts[1:]] != ["User", "More"]:
            without.append(path.stem)
        elif "System" not in parts[0]:
            with_last.append(path.stem)

    assert without == []
    assert with_last == ["mistralai-Mistral-Nemo-Instruct-2407"]


def test_a_chatml_prompt_is_cut_exactly_here() -> None:
    manifest = make_manifest(read_template("qwen_like"), control_tokens=CHATML)

    parts = split_at_cuts(render(manifest, messages=[SYSTEM, USER, ANSWER, MORE]))

    system = f"<|im_start|>system\n{SYSTEM['content']}<|im_end|>\n<|im_start|>user\n"
    assert parts[0] == system
    assert parts[1] == (
        "UserWords<|im_end|>\n<|im_start|>assistant\nAnswerWords<|im_end|>\n<|im_start|>user\n"
    )


def test_one_question_is_one_cut_after_system_prompt_and_tools() -> None:
    manifest = make_manifest(read_template("qwen_like"))

    parts = split_at_cuts(render(manifest, messages=[SYSTEM, USER], tools=[TOOL]))

    assert len(parts) == 2
    assert "get_weather" in parts[0]
    assert parts[1].startswith("UserWords")


def test_results_of_tools_do_not_move_the_cut() -> None:
    manifest = make_manifest(read_template("qwen_like"))
    messages = [SYSTEM, USER, CALL, RESULT]

    parts = split_at_cuts(render(manifest, messages=messages, tools=[TOOL]))

    assert [part[:9] for part in parts[1:]] == ["UserWords"]


def test_the_models_own_messages_are_before_the_cut() -> None:
    examples = ({"role": "user", "content": "Example"}, ANSWER)
    manifest = make_manifest(
        read_template("qwen_like"), system=SYSTEM["content"], messages=examples
    )

    parts = split_at_cuts(render(manifest, messages=[USER]))

    assert "Example" in parts[0]
    assert parts[1].startswith("UserWords")


def test_cuts_count_the_text_that_the_engine_gets() -> None:
    """Not the marks of control tokens, nor what disguises people's text; with the BOS before it."""
    manifest = make_manifest(
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m.content }}</s>{% endfor %}",
        control_tokens=("<|user|>", "<|system|>", "</s>"),
        add_bos=True,
    )
    system = {"role": "system", "content": "a </s> and <|user|> and < é 日本 " * 20}

    prompt = render(manifest, messages=[system, USER])

    assert split_at_cuts(prompt) == [
        f"<s><|system|>{system['content']}</s><|user|>",
        "UserWords</s>",
    ]


@pytest.mark.parametrize("content", ["  \n hi", [{"type": "text", "text": "hi"}], ""])
def test_any_content_can_follow_a_cut(content: Any) -> None:
    manifest = make_manifest(read_template("qwen_like"))

    parts = split_at_cuts(render(manifest, messages=[SYSTEM, {"role": "user", "content": content}]))

    assert parts[0].rstrip().endswith("<|im_start|>user")


def test_texts_at_one_place_are_one_cut() -> None:
    """The engine refuses cuts that do not ascend."""
    empty = {"role": "user", "content": ""}
    manifest = make_manifest("{% for m in messages %}{{ m.content }}{% endfor %}")

    prompt = render(manifest, messages=[SYSTEM, empty, USER])

    assert split_at_cuts(prompt) == [SYSTEM["content"], "UserWords"]


LONG = "x" * 300
EACH = "{% for m in messages %}"
REFUSES = "{% if messages[-1].content != 'UserWords' %}{{ raise_exception('no') }}{% endif %}"


@pytest.mark.parametrize(
    "template",
    [
        EACH + "{{ m.content if m.content[:4] == 'User' else m.content * 40 }}{% endfor %}" + LONG,
        EACH + "{{ m.content }}{{ m.content | length }}{% endfor %}" + LONG,
        REFUSES + LONG,
        REFUSES.replace("raise_exception('no')", "1 / 0") + LONG,
        EACH + "{{ m.content * 3 }}{% endfor %}" + LONG,
        LONG,
    ],
    ids=["looks", "counts", "refuses", "fails", "repeats", "shows nothing"],
)
def test_a_template_that_depends_on_the_text_gives_no_cuts(template: str) -> None:
    prompt = render(make_manifest(template), messages=[USER])

    assert not prompt.cuts
    assert prompt.pieces


def test_a_message_that_is_continued_is_cut_before_its_question() -> None:
    manifest = make_manifest(read_template("qwen_like"))

    prompt = render(manifest, messages=[SYSTEM, USER, ANSWER], continue_final_message=True)

    assert split_at_cuts(prompt)[1].startswith("UserWords")


class CountingRenderer(TemplateRenderer):
    renders = 0

    def render(self, template: Template, variables: str) -> str:
        self.renders += 1
        return super().render(template, variables)


def test_cuts_cost_one_more_render_and_nothing_without_them() -> None:
    templates = CountingRenderer()
    renderer = PromptRenderer(templates)
    manifest = make_manifest(read_template("qwen_like"))
    long = Conversation(messages=[SYSTEM, USER, ANSWER, MORE])
    counts = []
    for conversation, finds_cuts in [
        (long, True),
        (long, False),
        (Conversation(messages=[USER]), True),
    ]:
        templates.renders = 0
        renderer.render(manifest, conversation, finds_cuts=finds_cuts)
        counts.append(templates.renders)
    renderer.close()

    assert counts == [2, 1, 1]
