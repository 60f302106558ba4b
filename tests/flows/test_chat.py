"""From `up --detach` to answers, with curl, the OpenAI client and the CLI."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import openai
import pytest

from tests.flows.stack import (
    RunningStack,
    build_greedy_body,
    get_text,
    iterate_events,
    load_recorded_answers,
)
from tests.waiting import until

FRANCE = "What is the capital of France?"


def test_the_printed_curl_command_returns_an_answer(stack: RunningStack) -> None:
    (line,) = [line for line in stack.up_output.splitlines() if line.strip().startswith("curl ")]
    answer = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)

    assert json.loads(answer.stdout)["choices"][0]["message"]["content"] == "Paris."


def test_a_second_up_in_the_same_data_directory_prints_the_address_of_the_first(
    stack: RunningStack,
) -> None:
    result = stack.cli("up", "--detach")

    assert result.returncode == 1
    assert f"spindll: already running at {stack.url}" in result.stderr


def test_a_taken_port_is_reported_in_one_line_with_the_remedy(
    stack: RunningStack, tmp_path: Path
) -> None:
    other = RunningStack(tmp_path / "data")
    result = other.cli("up", "--detach", "--port", str(stack.port))

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"spindll: port {stack.port} is taken")
    assert result.stderr.splitlines()[-1].endswith("choose another with --port")


def test_the_openai_client_streams_an_answer(stack: RunningStack) -> None:
    with stack.openai() as client:
        chunks = client.chat.completions.create(
            model="tiny",
            temperature=0,
            stream=True,
            messages=[{"role": "user", "content": FRANCE}],
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert text == "Paris."


def test_a_report_says_where_the_tokens_of_a_prompt_came_from(stack: RunningStack) -> None:
    question = "Name the largest city of the country that the Seine flows through. " * 8

    def ask(content: str, request_id: str) -> dict[str, Any]:
        with stack.http() as http:
            http.headers["x-request-id"] = request_id
            http.post("/v1/chat/completions", json=build_greedy_body(content)).raise_for_status()
            report = until(lambda: read_report(http, request_id))
        assert report is not None
        return report

    first = ask(question, "first")
    again = ask(question, "again")
    other = ask(f"{question}Now.", "other")

    assert (again["reason"], again["compared_with"]) == ("found", "first")
    assert again["cached_tokens"]["live"] == again["prompt_tokens"] - again["computed_tokens"] > 0
    assert (
        first["prompt_tokens"]
        == again["prompt_tokens"]
        == first["computed_tokens"] + sum(first["cached_tokens"].values())
    )
    assert other["difference"]["field"] == "messages[0].content"
    assert 0 <= len(question) - other["difference"]["character"] < 16


def test_a_coding_agent_finds_its_prompt_although_its_header_changes(stack: RunningStack) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("read", "write")]

    def ask(cch: str, tools: list[dict[str, Any]]) -> tuple[int, int]:
        header = f"x-anthropic-billing-header: cc_version=2.1.197.{cch}; cch={cch};"
        system = {"role": "system", "content": header + "\n" + "You write careful code. " * 8}
        body = build_greedy_body(FRANCE, tools=tools)
        body["messages"].insert(0, system)
        with stack.http() as http:
            answer = http.post("/v1/chat/completions", json=body).raise_for_status()
        usage = answer.json()["usage"]
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]

    first, _ = ask("0a1", tools)
    again, found = ask("9ff", tools[::-1])

    assert first == again
    assert found > 0.95 * again


def read_report(http: httpx.Client, request_id: str) -> dict[str, Any] | None:
    """The report once it is complete; nothing waits for that."""
    answer = http.get(f"/v1/requests/{request_id}/cache")
    report: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
    return report if report is not None and report["is_finished"] else None


def test_a_chat_begins_with_the_named_prefix_of_its_tenant(stack: RunningStack) -> None:
    rules = [{"role": "system", "content": "The canary sings in the mine at night. " * 24}]
    messages = [*rules, {"role": "user", "content": FRANCE}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 1}
    with stack.http() as http:
        made = http.post(
            "/v1/prefixes", json={"name": "rules", "model": "tiny", "messages": rules}
        ).json()
        usage = http.post("/v1/chat/completions", json=body).json()["usage"]
        user = {"authorization": f"Bearer {stack.paths.user_key.read_text().strip()}"}
        others = http.post("/v1/chat/completions", json=body, headers=user).json()["usage"]
        shown = stack.cli("cache")
        seen = http.get("/v1/prefixes/rules", headers=user)

    assert made["stored_tokens"] >= 256
    assert usage["prompt_tokens_details"]["cached_tokens"] >= made["stored_tokens"]
    # The first token may be that of an earlier chat of this key.
    assert others["prompt_tokens_details"]["cached_tokens"] <= 1
    assert "rules" in shown.stdout
    assert seen.status_code == 404


def test_four_concurrent_streams_give_the_same_answers_as_alone(stack: RunningStack) -> None:
    cases = load_recorded_answers(r"count-(100|50)|fact-(26|1)")

    def stream(content: str) -> str:
        body = build_greedy_body(content, stream=True)
        with (
            stack.http() as http,
            http.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            return "".join(get_text(chunk) for chunk in iterate_events(answer))

    alone = {content: stream(content) for content in cases}
    with ThreadPoolExecutor(4) as pool:
        together = dict(zip(cases, pool.map(stream, cases), strict=True))

    assert alone == cases
    assert together == cases


def test_the_cli_commands_show_and_use_the_stack(stack: RunningStack) -> None:
    assert stack.cli("run", "tiny", FRANCE, "--temperature", "0").stdout == "Paris.\n"
    assert "tiny:latest" in stack.cli("list").stdout
    assert "tiny:latest" in stack.cli("ps").stdout
    status = stack.cli("status")
    assert (status.returncode, status.stdout.splitlines()[-1]) == (0, "ready: a chat would succeed")
    assert "engine listening" in stack.cli("logs", "engine").stdout


@pytest.mark.parametrize("arguments", [["run", "unknown:1b", "hello"], ["rm", "unknown:1b"]])
def test_an_unknown_model_is_reported_in_one_line(
    stack: RunningStack, arguments: list[str]
) -> None:
    result = stack.cli(*arguments)

    assert result.returncode == 1
    assert result.stderr.startswith("spindll: ")
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_request_without_a_key_is_refused(stack: RunningStack) -> None:
    with stack.http() as http:
        http.headers.pop("Authorization")
        answer = http.post("/v1/chat/completions", json=build_greedy_body(FRANCE))

    assert answer.status_code == 401


def test_a_completion_of_a_rendered_chat_is_the_answer_of_the_chat(stack: RunningStack) -> None:
    """The prompt of the chat as text, and as tokens that became text again."""
    chat = build_greedy_body(FRANCE)
    with stack.http() as http:
        prompt = http.post("/apply-template", json=chat).json()["prompt"]
        tokens = http.post("/tokenize", json={"model": "tiny", "prompt": prompt}).json()["tokens"]
        counted = http.post("/v1/chat/completions/input_tokens", json=chat).json()
        text = http.post("/detokenize", json={"model": "tiny", "tokens": tokens}).json()["content"]
        unknown = http.post("/detokenize", json={"model": "tiny", "tokens": [1 << 20]})
    with stack.openai() as client:
        answer = client.completions.create(model="tiny", prompt=text, temperature=0)

    assert answer.choices[0].text == "Paris."
    assert (text, len(tokens)) == (prompt, counted["input_tokens"])
    assert unknown.status_code == 400
    assert unknown.json()["error"]["param"] == "tokens"


def test_the_echo_of_a_chats_tokens_is_its_prompt_whose_tokens_have_their_texts(
    stack: RunningStack,
) -> None:
    with stack.http() as http:
        prompt = http.post("/apply-template", json=build_greedy_body(FRANCE)).json()["prompt"]
        tokens = http.post("/tokenize", json={"model": "tiny", "prompt": prompt}).json()["tokens"]
    with stack.openai() as client:
        body: dict[str, Any] = {"model": "tiny", "echo": True, "logprobs": 0, "temperature": 0}
        choice, same = client.completions.create(**body, prompt=[prompt, tokens]).choices
        stream = client.completions.create(
            model="tiny", prompt=tokens, echo=True, temperature=0, stream=True
        )
        streamed = "".join(chunk.choices[0].text for chunk in stream)

    assert choice.text == same.text == streamed == f"{prompt}Paris."
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.tokens[0] == "<|im_start|>"
    assert same.logprobs is not None
    assert same.logprobs.tokens == choice.logprobs.tokens


def test_the_best_of_several_answers_is_returned_and_all_are_counted(stack: RunningStack) -> None:
    body: dict[str, Any] = {
        "model": "tiny",
        "prompt": "Once upon a time",
        "max_tokens": 12,
        "logprobs": 0,
    }
    sampled = {"temperature": 2, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 7}
    with stack.openai() as client:
        every = client.completions.create(**body, n=4, extra_body=sampled)
        best = client.completions.create(**body, best_of=4, extra_body=sampled)
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(**body, suffix="The end.")

    def rank(choice: Any) -> float:
        return fmean(choice.logprobs.token_logprobs)

    (choice,) = best.choices
    assert choice.text == max(every.choices, key=rank).text
    assert len({answer.text for answer in every.choices}) > 1
    assert best.usage.completion_tokens == every.usage.completion_tokens
    assert refused.value.param == "suffix"
