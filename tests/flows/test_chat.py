"""From `up --detach` to answers, as a stranger would try it."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.flows.stack import RunningStack, events, greedy, recorded, text_of

FRANCE = "What is the capital of France?"


def test_the_printed_curl_line_answers_when_pasted(stack: RunningStack) -> None:
    (line,) = [line for line in stack.printed.splitlines() if line.strip().startswith("curl ")]
    answer = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)

    assert json.loads(answer.stdout)["choices"][0]["message"]["content"] == "Paris."


def test_a_second_up_in_the_same_place_says_where_the_first_is(stack: RunningStack) -> None:
    said = stack.cli("up", "--detach")

    assert said.returncode == 1
    assert f"spindll: already running at {stack.url}" in said.stderr


def test_a_taken_port_is_one_line_with_what_to_do(stack: RunningStack, tmp_path: Path) -> None:
    other = RunningStack(tmp_path / "data")
    said = other.cli("up", "--detach", "--port", str(stack.port))

    assert said.returncode == 1
    assert said.stderr.splitlines()[-1].startswith(f"spindll: port {stack.port} is taken")
    assert said.stderr.splitlines()[-1].endswith("choose another with --port")


def test_the_openai_client_streams_the_same(stack: RunningStack) -> None:
    with stack.openai() as client:
        chunks = client.chat.completions.create(
            model="tiny",
            temperature=0,
            stream=True,
            messages=[{"role": "user", "content": FRANCE}],
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert text == "Paris."


def test_four_streams_at_once_say_what_each_says_alone(stack: RunningStack) -> None:
    cases = recorded(r"count-(100|50)|fact-(26|1)")

    def stream(content: str) -> str:
        body = greedy(content, stream=True)
        with (
            stack.http() as http,
            http.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            return "".join(text_of(chunk) for chunk in events(answer))

    alone = {content: stream(content) for content in cases}
    with ThreadPoolExecutor(4) as pool:
        together = dict(zip(cases, pool.map(stream, cases), strict=True))

    assert alone == cases
    assert together == cases


def test_the_commands_show_and_use_the_stack(stack: RunningStack) -> None:
    assert stack.cli("run", "tiny", FRANCE, "--temperature", "0").stdout == "Paris.\n"
    assert "tiny:latest" in stack.cli("list").stdout
    assert "tiny:latest" in stack.cli("ps").stdout
    status = stack.cli("status")
    assert (status.returncode, status.stdout.splitlines()[-1]) == (0, "ready: a chat would succeed")
    assert "engine listening" in stack.cli("logs", "engine").stdout


@pytest.mark.parametrize("arguments", [["run", "nobody:1b", "hello"], ["rm", "nobody:1b"]])
def test_an_unknown_model_is_one_line(stack: RunningStack, arguments: list[str]) -> None:
    said = stack.cli(*arguments)

    assert said.returncode == 1
    assert said.stderr.startswith("spindll: ")
    assert len(said.stderr.strip().splitlines()) == 1


def test_without_a_key_there_is_no_answer(stack: RunningStack) -> None:
    with stack.http() as http:
        http.headers.pop("Authorization")
        answer = http.post("/v1/chat/completions", json=greedy(FRANCE))

    assert answer.status_code == 401
